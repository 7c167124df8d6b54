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
    choose_attention,
)
from services.inference.bag_attention import BagBackend
from services.inference.kv_cache import KVCache, KVShape
from services.inference.xformers_attention import XformersBackend, open_xformers, self_test
from shared.base.errors import StartupError

CONTEXT, HEADS, HEAD_DIM, SLOTS = 72, 2, 32, 5
SHAPE = KVShape(num_layers=1, num_heads=HEADS, head_dim=HEAD_DIM, context_length=CONTEXT)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ON_CPU: Any = {"device": CPU, "dtype": torch.float32}


class Opened:
    """Stands for an xformers that works."""

    name = "xformers"


def opens(_device: torch.device) -> AttentionBackend:
    return cast(AttentionBackend, Opened())


def refuses(_device: torch.device) -> AttentionBackend:
    raise StartupError("xformers cannot be used")


@pytest.mark.parametrize(
    ("requested", "device", "chosen"),
    [
        ("auto", CPU, "bags"),
        ("sdpa", CPU, "sdpa"),
        ("auto", CUDA, "xformers"),
        ("xformers", CUDA, "xformers"),
        ("sdpa", CUDA, "sdpa"),
    ],
)
def test_the_backend_that_is_chosen(requested: Any, device: torch.device, chosen: str) -> None:
    assert choose_attention(requested, device, cpu=BagBackend(), open_xformers=opens).name == chosen


@pytest.mark.parametrize("requested", ["auto", "xformers"])
def test_a_cuda_device_without_working_xformers_is_refused(requested: Any) -> None:
    with pytest.raises(StartupError, match="xformers cannot be used"):
        choose_attention(requested, CUDA, cpu=BagBackend(), open_xformers=refuses)


def test_sdpa_on_request_does_not_even_open_xformers() -> None:
    assert choose_attention("sdpa", CUDA, cpu=BagBackend(), open_xformers=refuses).name == "sdpa"


def test_xformers_on_a_cpu_is_refused() -> None:
    with pytest.raises(StartupError, match="attention=xformers needs a CUDA device"):
        choose_attention("xformers", CPU, cpu=BagBackend(), open_xformers=opens)


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
        bias = SimpleNamespace(from_seqlens=lambda **layout: layout)
        self.fmha = SimpleNamespace(
            attn_bias=SimpleNamespace(BlockDiagonalCausalWithOffsetGappyKeysMask=bias),
            flash=SimpleNamespace(FwOp="flash"),
            triton_splitk=SimpleNamespace(FwOp_Map={1: "split-1", 4: "split-4", 16: "split-16"}),
        )

    def memory_efficient_attention_forward(
        self, q: Tensor, k: Tensor, v: Tensor, attn_bias: dict[str, Any], *, op: str
    ) -> Tensor:
        self.used.append(op)
        *starts, end = attn_bias["kv_seqstarts"]
        assert k.shape[1] == v.shape[1] == end
        shape = KVShape(1, *k.shape[2:], math.gcd(*starts, end))
        rows = [
            RowLayout(slot=start // shape.context_length, query_length=num_q, key_length=num_k)
            for start, num_q, num_k in zip(
                starts, attn_bias["q_seqlen"], attn_bias["kv_seqlen"], strict=True
            )
        ]
        step = SdpaBackend().prepare(rows, shape=shape, device=CPU)
        return step.mix(q[0], k[0], v[0])[None] + self._error


def test_each_kind_of_batch_names_its_operator() -> None:
    ops = FakeOps()
    backend = XformersBackend(cast(Any, ops))
    keys, values = torch.randn(2, 2 * 4096, HEADS, HEAD_DIM)
    shape = KVShape(num_layers=1, num_heads=HEADS, head_dim=HEAD_DIM, context_length=4096)
    for query_length, key_length in ((1, 256), (1, 257), (1, 2048), (1, 2049), (2, 2)):
        rows = [RowLayout(slot=1, query_length=query_length, key_length=key_length)]
        q = torch.randn(query_length, HEADS, HEAD_DIM)
        backend.prepare(rows, shape=shape, device=CPU).mix(q, keys, values)
    assert ops.used == ["split-1", "split-4", "split-4", "split-16", "flash"]


def test_the_self_test_runs_both_operators_and_passes_a_right_backend() -> None:
    ops = FakeOps()
    self_test(XformersBackend(cast(Any, ops)), CPU)
    assert ops.used == ["split-4", "flash"]


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_xformers_equals_sdpa_on_this_card() -> None:
    pytest.importorskip("xformers")
    assert open_xformers(CUDA).name == "xformers"
