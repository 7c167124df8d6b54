"""Which backend is chosen, what is refused, and that SDPA's layouts equal a plain twin."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.inference import xformers_attention
from services.inference.attention import (
    AttentionBackend,
    RowLayout,
    SdpaBackend,
)
from services.inference.bag_attention import BagBackend
from services.inference.kv_cache import KVCache, KVShape
from services.inference.runtime import choose_on_cpu, choose_on_cuda
from services.inference.xformers_attention import XformersBackend, open_xformers, self_test
from shared.base.errors import StartupError

CONTEXT, HEADS, HEAD_DIM, SLOTS = 72, 2, 32, 5
SHAPE = KVShape(num_layers=1, num_heads=HEADS, head_dim=HEAD_DIM, context_length=CONTEXT)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ON_CPU: Any = {"device": CPU, "dtype": torch.float32}


class Opened:
    """Stands for an xformers that works."""

    name = "xformers"


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xformers_attention, "open_xformers", lambda _device: Opened())


@pytest.fixture
def refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_device: torch.device) -> None:
        raise StartupError("xformers cannot be used")

    monkeypatch.setattr(xformers_attention, "open_xformers", refuse)


@pytest.mark.parametrize(("requested", "chosen"), [("auto", "bags"), ("sdpa", "sdpa")])
def test_the_backend_on_a_cpu(requested: Any, chosen: str) -> None:
    assert choose_on_cpu(requested).name == chosen


@pytest.mark.parametrize(
    ("requested", "chosen"), [("auto", "xformers"), ("xformers", "xformers"), ("sdpa", "sdpa")]
)
@pytest.mark.usefixtures("opens")
def test_the_backend_on_cuda(requested: Any, chosen: str) -> None:
    assert choose_on_cuda(requested, CUDA).name == chosen


@pytest.mark.parametrize("requested", ["auto", "xformers"])
@pytest.mark.usefixtures("refuses")
def test_a_cuda_device_without_working_xformers_is_refused(requested: Any) -> None:
    with pytest.raises(StartupError, match="xformers cannot be used"):
        choose_on_cuda(requested, CUDA)


@pytest.mark.usefixtures("refuses")
def test_sdpa_on_request_does_not_even_open_xformers() -> None:
    assert choose_on_cuda("sdpa", CUDA).name == "sdpa"


def test_xformers_on_a_cpu_is_refused() -> None:
    with pytest.raises(StartupError, match="attention=xformers needs a CUDA device"):
        choose_on_cpu("xformers")


def test_a_missing_xformers_says_what_to_do() -> None:
    with pytest.raises(StartupError, match=r"xformers cannot be used: No module named 'xformers'"):
        open_xformers(CPU)


def twin(rows: list[RowLayout], q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query at a time, as the definition reads."""
    out, position = torch.empty_like(q), 0
    for row in rows:
        for number in range(row.query_length):
            visible = row.key_length - row.query_length + number + 1
            own = slice(row.slot * CONTEXT, row.slot * CONTEXT + visible)
            scores = torch.einsum("hk,thk->ht", q[position], keys[own]) / math.sqrt(HEAD_DIM)
            out[position] = torch.einsum("ht,thk->hk", scores.softmax(-1), values[own])
            position += 1
    return out


@st.composite
def layouts(draw: st.DrawFn) -> list[RowLayout]:
    slots = draw(st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=SLOTS, unique=True))
    rows = []
    for slot in slots:
        key_length = draw(st.integers(1, CONTEXT))
        single = draw(st.booleans())
        query_length = 1 if single else draw(st.integers(1, key_length))
        rows.append(RowLayout(slot=slot, query_length=query_length, key_length=key_length))
    return rows


@pytest.mark.parametrize("backend", [SdpaBackend(), BagBackend()])
@settings(max_examples=30, deadline=None)
@given(rows=layouts())
def test_a_backend_equals_the_twin_for_any_layout(
    backend: AttentionBackend, rows: list[RowLayout]
) -> None:
    """What is stored in every slot, then the batch's own tokens over it."""
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, SLOTS * CONTEXT, HEADS, HEAD_DIM, generator=generator)
    cache = KVCache(SHAPE, num_slots=SLOTS, order=backend, **ON_CPU)
    full = [RowLayout(slot=n, query_length=CONTEXT, key_length=CONTEXT) for n in range(SLOTS)]
    before = backend.prepare(full, shape=SHAPE, device=CPU)
    before.store(keys, values, cache.keys[0], cache.values[0])
    q, k, v = torch.randn(
        3, sum(row.query_length for row in rows), HEADS, HEAD_DIM, generator=generator
    )
    step = backend.prepare(rows, shape=SHAPE, device=CPU)
    step.store(k, v, cache.keys[0], cache.values[0])
    places = [
        row.slot * CONTEXT + position
        for row in rows
        for position in range(row.key_length - row.query_length, row.key_length)
    ]
    keys[places], values[places] = k, v
    found = step.mix(q, cache.keys[0], cache.values[0])
    assert (found - twin(rows, q, keys, values)).abs().max() < 1e-5


def test_kept_indices_follow_rows_into_their_next_tile() -> None:
    """The same rows step by step: one crosses from tile to tile, one lags behind, one ends."""
    generator, backend = torch.Generator().manual_seed(0), BagBackend()
    keys, values = torch.randn(2, SLOTS * CONTEXT, HEADS, HEAD_DIM, generator=generator)
    cache = KVCache(SHAPE, num_slots=SLOTS, order=backend, **ON_CPU)
    full = [RowLayout(slot=n, query_length=CONTEXT, key_length=CONTEXT) for n in range(SLOTS)]
    backend.prepare(full, shape=SHAPE, device=CPU).store(
        keys, values, cache.keys[0], cache.values[0]
    )
    for end in range(62, 68):
        rows = [RowLayout(slot=3, query_length=1, key_length=end)]
        rows += [RowLayout(slot=1, query_length=1, key_length=end - 7)] * (end < 67)
        q, k, v = torch.randn(3, len(rows), HEADS, HEAD_DIM, generator=generator)
        step = backend.prepare(rows, shape=SHAPE, device=CPU)
        step.store(k, v, cache.keys[0], cache.values[0])
        places = [row.slot * CONTEXT + row.key_length - 1 for row in rows]
        keys[places], values[places] = k, v
        found = step.mix(q, cache.keys[0], cache.values[0])
        assert (found - twin(rows, q, keys, values)).abs().max() < 1e-5


class FakeOps:
    """`xformers.ops` as far as the backend uses it; computes by SDPA, remembers the operators."""

    def __init__(self, error: float = 0.0) -> None:
        self.used: list[str] = []
        self._error = error
        bias = SimpleNamespace(from_seqlens=self._bias)
        self.fmha = SimpleNamespace(
            attn_bias=SimpleNamespace(BlockDiagonalCausalWithOffsetGappyKeysMask=bias),
            flash=SimpleNamespace(FwOp="flash"),
            triton_splitk=SimpleNamespace(FwOp_Map={1: "split-1", 4: "split-4", 16: "split-16"}),
        )

    @staticmethod
    def _bias(*, kv_seqstarts: list[int], kv_seqlen: list[int], **layout: Any) -> SimpleNamespace:
        starts, lengths = (
            torch.tensor(one, dtype=torch.int32) for one in (kv_seqstarts, kv_seqlen)
        )
        return SimpleNamespace(**layout, k_seqinfo=SimpleNamespace(seqstart=starts, seqlen=lengths))

    def memory_efficient_attention_forward(
        self, q: Tensor, k: Tensor, v: Tensor, attn_bias: SimpleNamespace, *, op: str
    ) -> Tensor:
        self.used.append(op)
        *starts, end = attn_bias.k_seqinfo.seqstart.tolist()
        assert k.shape[1] == v.shape[1] == end
        shape = KVShape(1, *k.shape[2:], math.gcd(*starts, end))
        rows = [
            RowLayout(slot=start // shape.context_length, query_length=num_q, key_length=num_k)
            for start, num_q, num_k in zip(
                starts, attn_bias.q_seqlen, attn_bias.k_seqinfo.seqlen.tolist(), strict=True
            )
        ]
        step = SdpaBackend().prepare(rows, shape=shape, device=CPU)
        return step.mix(q[0], k[0], v[0])[None] + self._error


def test_a_batch_that_the_host_lays_out_never_compiles_a_kernel() -> None:
    ops = FakeOps()
    backend = XformersBackend(cast(Any, ops))
    keys, values = torch.randn(2, 2 * 4096, HEADS, HEAD_DIM)
    shape = KVShape(num_layers=1, num_heads=HEADS, head_dim=HEAD_DIM, context_length=4096)
    for query_length, key_length in ((1, 1), (1, 257), (2, 2)):
        rows = [RowLayout(slot=1, query_length=query_length, key_length=key_length)]
        q = torch.randn(query_length, HEADS, HEAD_DIM)
        backend.prepare(rows, shape=shape, device=CPU).mix(q, keys, values)
    assert ops.used == ["flash"] * 3


def test_a_cache_that_the_kernel_cannot_address_is_refused() -> None:
    backend = XformersBackend(cast(Any, FakeOps()))
    shape = KVShape(num_layers=1, num_heads=16, head_dim=128, context_length=2048)

    def cache(num_slots: int) -> KVCache:
        where: Any = {"device": torch.device("meta"), "dtype": torch.bfloat16}
        return KVCache(shape, num_slots=num_slots, order=backend, **where)

    assert backend.fix(2, cache(511)) is not None
    with pytest.raises(StartupError, match="lower RYANGPT_INFERENCE_SLOTS"):
        backend.fix(2, cache(512))


def test_the_self_test_runs_both_operators_and_passes_a_right_backend() -> None:
    ops = FakeOps()
    self_test(XformersBackend(cast(Any, ops)), CPU)
    assert ops.used == ["flash", "split-4", "flash"]


@pytest.mark.parametrize(
    ("rows", "context", "op"), [(4, 256, "split-1"), (4, 512, "split-4"), (128, 512, "split-1")]
)
def test_a_fixed_step_splits_keys_as_for_a_whole_slot_unless_its_rows_keep_the_card_busy(
    rows: int, context: int, op: str
) -> None:
    ops = FakeOps()
    backend = XformersBackend(cast(Any, ops))
    shape = KVShape(num_layers=1, num_heads=HEADS, head_dim=HEAD_DIM, context_length=context)
    cache = KVCache(shape, num_slots=rows + 1, order=backend, **ON_CPU)
    slots = torch.arange(rows).flip(0)
    step = backend.fix(rows, cache).at(slots, torch.full((rows,), 3))
    q = torch.randn(rows, HEADS, HEAD_DIM)
    step.mix(q, cache.keys[0], cache.values[0])
    assert ops.used == [op]


def test_the_self_test_refuses_a_wrong_backend() -> None:
    with pytest.raises(StartupError, match=r"self-test differs from SDPA by 0\.\d+ .*sdpa"):
        self_test(XformersBackend(cast(Any, FakeOps(error=0.5))), CPU)


def test_the_self_test_refuses_a_backend_that_computes_nan() -> None:
    with pytest.raises(StartupError, match="differs from SDPA by nan"):
        self_test(XformersBackend(cast(Any, FakeOps(error=math.nan))), CPU)


def test_an_operator_that_raises_is_reported_with_its_reason() -> None:
    ops = FakeOps()

    def refuse(*_: Any, **__: Any) -> Tensor:
        raise NotImplementedError("xFormers wasn't build with CUDA support")

    ops.memory_efficient_attention_forward = refuse  # type: ignore[method-assign]
    with pytest.raises(StartupError, match="wasn't build with CUDA support"):
        self_test(XformersBackend(cast(Any, ops)), CPU)


def test_the_cuda_runtime_is_loaded_where_its_wheel_is(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "cuda_runtime" / "lib" / "libcudart.so.12"
    library.parent.mkdir(parents=True)
    library.touch()
    loaded: list[str] = []
    spec = SimpleNamespace(submodule_search_locations=["/nowhere", str(tmp_path)])
    monkeypatch.setattr(xformers_attention.importlib.util, "find_spec", lambda _name: spec)
    monkeypatch.setattr(xformers_attention.ctypes, "CDLL", lambda path, mode: loaded.append(path))
    xformers_attention.preload_cuda_runtime()
    assert loaded == [str(library)]


@settings(max_examples=30, deadline=None)
@given(rows=layouts())
def test_attention_over_lengths_that_only_the_device_knows_equals_the_twin(
    rows: list[RowLayout],
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [row._replace(query_length=1) for row in rows]
    cache = KVCache(SHAPE, num_slots=SLOTS, order=SdpaBackend(), **ON_CPU)
    for layer in (cache.keys[0], cache.values[0]):
        layer.copy_(torch.randn(layer.shape, generator=generator))
    q, k, v = torch.randn(3, len(rows), HEADS, HEAD_DIM, generator=generator)
    slots = torch.tensor([row.slot for row in rows])
    lengths = torch.tensor([row.key_length for row in rows])
    step = SdpaBackend().fix(len(rows), cache).at(slots, lengths)
    step.store(k, v, cache.keys[0], cache.values[0])
    places = slots * CONTEXT + lengths - 1
    assert torch.equal(cache.keys[0][places], k)
    found = step.mix(q, cache.keys[0], cache.values[0])
    assert (found - twin(rows, q, cache.keys[0], cache.values[0])).abs().max() < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_xformers_equals_sdpa_on_this_card() -> None:
    pytest.importorskip("xformers")
    assert open_xformers(CUDA).name == "xformers"
