"""Versions copied into sets: which set, how many of them, what happens to those in use."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.inference.attention import SdpaBackend
from services.inference.draining import Draining
from services.inference.kv_cache import KVCachePool
from services.inference.memory import MemoryBudget, OverBudgetError
from services.inference.resident.weight_sets import WeightSets
from shared.base.errors import IntegrityError
from shared.contracts.manifest import MODEL_WEIGHTS
from tests.support.following import FollowingSite
from tests.support.generation import ResidentBench, answer_ids, open_resident_on_cpu
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model

CPU = torch.device("cpu")
CONFIG = SMALL_MODELS["arcee"]
ONE, TWO, THREE = (random_model(CONFIG, seed) for seed in range(3))
NUM_SLOTS = 3
STEPS_A_SET = 3 * 3
"""For 1, 2 and 3 rows, each with every effort."""


class Counted:
    """Sets, and how many steps were captured."""

    def __init__(self, limit: int = 0) -> None:
        attention = SdpaBackend()
        where: Any = {"device": CPU, "dtype": torch.float32}
        self.caches = KVCachePool(num_slots=NUM_SLOTS + 1, order=attention, **where)
        self.budget = MemoryBudget(limit, self.caches)
        self.captured = 0
        self.sets = WeightSets(
            self.caches, attention, self.budget, lambda: self._capture, num_slots=NUM_SLOTS
        )

    def _capture(self, compute: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        compute()
        return compute


def test_a_swap_fills_the_idle_set_and_captures_nothing() -> None:
    counted = Counted()
    first = counted.sets.load("chat", CONFIG, ONE.state_dict())
    assert counted.captured == 2 * STEPS_A_SET
    second = counted.sets.load("chat", CONFIG, TWO.state_dict())
    networks = [first.network, second.network]
    assert networks[0] is not networks[1]
    addresses = [network._head.weight.data_ptr() for network in networks]
    del first
    third = counted.sets.load("chat", CONFIG, THREE.state_dict())
    assert third.network is networks[0]
    assert [network._head.weight.data_ptr() for network in networks] == addresses
    assert torch.equal(third.network._embedding, THREE.state_dict()["model.embed_tokens.weight"])
    assert counted.captured == 2 * STEPS_A_SET


def test_every_further_model_of_a_shape_has_one_set_more() -> None:
    counted = Counted()
    held = [counted.sets.load(name, CONFIG, ONE.state_dict()) for name in ("base", "chat")]
    assert counted.captured == 3 * STEPS_A_SET
    swapped = counted.sets.load("chat", CONFIG, TWO.state_dict())
    assert len({id(one.network) for one in (*held, swapped)}) == 3
    assert counted.captured == 3 * STEPS_A_SET
    assert held[0].table is swapped.table


def test_with_every_set_in_use_one_more_is_made() -> None:
    counted = Counted()
    held = [counted.sets.load("chat", CONFIG, ONE.state_dict()) for _ in range(3)]
    assert counted.captured == 3 * STEPS_A_SET
    assert len({id(one.network) for one in held}) == 3


def test_sets_are_freed_when_no_version_of_their_shape_is_left() -> None:
    counted = Counted()
    held = counted.sets.load("chat", CONFIG, ONE.state_dict())
    assert len(counted.budget._alive) == 2
    del held
    gc.collect()
    assert len(counted.budget._alive) == 0


def test_the_idle_set_counts_as_memory_in_use() -> None:
    size = Counted().sets.load("chat", CONFIG, ONE.state_dict())
    needed = 2 * size.network.num_bytes + size.group.cache.num_bytes
    with pytest.raises(OverBudgetError):
        Counted(needed - 1).sets.load("chat", CONFIG, ONE.state_dict())
    roomy = Counted(needed)
    held = [roomy.sets.load("chat", CONFIG, model.state_dict()) for model in (ONE, TWO)]
    with pytest.raises(OverBudgetError):
        roomy.sets.load("chat", CONFIG, THREE.state_dict())
    assert len(held) == 2


def test_weights_that_do_not_fit_leave_the_set_idle() -> None:
    counted = Counted()
    held = counted.sets.load("chat", CONFIG, ONE.state_dict())
    broken = {**TWO.state_dict()}
    broken["model.layers.1.mlp.down_proj.weight"] = torch.full((64, 96), torch.nan)
    for _ in range(3):
        with pytest.raises(IntegrityError, match="holds NaN or infinity"):
            counted.sets.load("chat", CONFIG, broken)
    swapped = counted.sets.load("chat", CONFIG, TWO.state_dict())
    assert swapped.network is not held.network
    assert counted.captured == 2 * STEPS_A_SET


def test_each_request_is_answered_by_the_version_that_it_began_with() -> None:
    bench = ResidentBench(num_slots=NUM_SLOTS)
    old = bench.load(ONE)
    begun = bench.add(old, [5, 6], max_tokens=20)
    for _ in range(4):
        bench.engine.step()
    new = bench.load(TWO, version=2)
    after = bench.add(new, [5, 6], max_tokens=20)
    bench.finish()
    assert answer_ids(begun) == greedy_without_cache(ONE, [5, 6], 20)
    assert answer_ids(after) == greedy_without_cache(TWO, [5, 6], 20)
    bench.observer.finished.clear()
    bench.delivered.clear()
    del old, begun
    gc.collect()
    third = bench.load(THREE, version=3)
    last = bench.add(third, [5, 6], max_tokens=20)
    bench.finish()
    assert answer_ids(last) == greedy_without_cache(THREE, [5, 6], 20)


def test_a_version_that_has_drained_gives_its_set_back_though_somebody_still_reads() -> None:
    bench = ResidentBench(num_slots=NUM_SLOTS)
    old, new = bench.load(ONE), bench.load(TWO, version=2)
    read_slowly = bench.add(old, [5], max_tokens=3)
    bench.engine.step()
    draining = Draining(bench.engine, seconds=3600)
    draining.begin(old, new)
    assert draining.blocks("m")
    bench.finish()
    assert not draining.blocks("m")
    assert read_slowly.model is old
    third = bench.load(THREE, version=3)
    assert third.network is old.network
    last = bench.add(third, [5], max_tokens=9)
    bench.finish()
    assert answer_ids(last) == greedy_without_cache(THREE, [5], 9)
    old.release()
    assert third.resident is not None
    assert not third.resident.group.idle, "what was given back twice would be filled twice"


def test_published_versions_go_through_the_sets_and_a_bad_one_changes_nothing(
    tmp_path: Path,
) -> None:
    site = FollowingSite(tmp_path, open_with=open_resident_on_cpu, inference_slots=NUM_SLOTS)
    networks, reasons = [], []

    def serve(model: Any, spoil: Callable[[Path], None] | None = None) -> None:
        site.publisher.publish("demo", model, spoil=spoil)
        site.poll()
        gc.collect()
        networks.append(site.registry.resolve("demo").network)
        reasons.append(site.reason())

    def overwrite(folder: Path) -> None:
        weights = load_file(folder / MODEL_WEIGHTS)
        weights["model.norm.weight"][0] = torch.inf
        save_file(weights, folder / MODEL_WEIGHTS)

    for model, spoil in ((ONE, None), (TWO, None), (TWO, overwrite), (THREE, None)):
        serve(model, spoil)
    assert reasons == [None, None, "model.norm.weight holds NaN or infinity.", None]
    assert networks[0] is networks[3]
    assert networks[1] is networks[2] is not networks[0]
