"""What bounds a swap: one draining version, the memory budget, a crash on the way."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from services.inference import memory
from services.inference.loaded_model import BatchRow
from services.inference.loader import LoadStage
from services.inference.matrix import WeightType
from services.inference.memory import MemoryBudget
from services.inference.watcher import ModelWatcher
from shared.contracts.manifest import MODEL_WEIGHTS
from shared.text.tokenizer import Tokenizer
from tests.support.following import FollowingSite
from tests.support.serving import SMALL_MODELS, random_model
from tests.support.waiting import wait_until

ARCEE, LLAMA = random_model(SMALL_MODELS["arcee"]), random_model(SMALL_MODELS["llama"])


def publish(site: FollowingSite, count: int = 1) -> None:
    for _ in range(count):
        site.publisher.publish("demo", ARCEE)


def test_while_a_version_drains_newer_ones_wait_and_the_newest_is_loaded_alone(
    tmp_path: Path,
) -> None:
    site = FollowingSite(tmp_path)
    publish(site)
    site.poll()
    old = site.registry.resolve("demo")
    site.busy = {old.version}
    publish(site)
    site.poll()
    assert site.version() == 2
    publish(site, 2)
    for _ in range(3):
        site.poll()
    assert (site.version(), site.loads) == (2, [1, 2])
    site.busy.clear()
    site.poll()
    assert (site.version(), site.loads, site.retired) == (4, [1, 2, 4], [])


def test_what_waited_for_a_version_to_drain_does_not_wait_for_the_next_poll(
    tmp_path: Path,
) -> None:
    site = FollowingSite(tmp_path, interval_seconds=3600.0)
    publish(site)
    site.watcher.start()
    try:
        wait_until(lambda: site.version() == 1, "version 1 is served")
        old = site.registry.resolve("demo")
        site.busy = {old.version}
        for _ in range(2):
            publish(site)
            site.watcher.wake()
            wait_until(lambda: site.version() == 2, "version 2 is served")
        wait_until(lambda: bool(site.watcher._held_back), "version 3 waits")
        assert site.loads == [1, 2]
        site.busy.clear()
        wait_until(lambda: site.version() == 3, "version 3 is served")
    finally:
        site.watcher.stop()


def test_what_waits_is_handed_to_the_version_that_replaces_its_own(tmp_path: Path) -> None:
    site = FollowingSite(tmp_path)
    for _ in range(3):
        publish(site)
        site.poll()
    assert site.replaced == [(1, 2), (2, 3)]


def test_a_version_that_drains_for_too_long_is_retired(tmp_path: Path) -> None:
    site = FollowingSite(tmp_path, drain_seconds=0.0)
    publish(site)
    site.poll()
    old = site.registry.resolve("demo")
    site.busy = {old.version}
    publish(site)
    site.poll()
    publish(site)
    site.poll()
    assert (site.version(), site.retired) == (3, [1])


def test_a_draining_model_does_not_hold_up_another_model(tmp_path: Path) -> None:
    site = FollowingSite(tmp_path)
    publish(site)
    site.poll()
    old = site.registry.resolve("demo")
    site.busy = {old.version}
    publish(site)
    site.poll()
    publish(site)
    site.publisher.publish("other", LLAMA)
    site.poll()
    assert (site.version("demo"), site.version("other")) == (2, 1)


def two_models_bytes(site: FollowingSite) -> int:
    """What two versions of the served model and their one cache take."""
    (model,) = site.registry.models()
    return 2 * model.network.num_bytes + model.cache.num_bytes


def test_a_model_beyond_the_memory_budget_is_served_when_there_is_room(tmp_path: Path) -> None:
    measured = FollowingSite(tmp_path / "measured")
    publish(measured)
    measured.poll()
    site = FollowingSite(tmp_path / "bounded", inference_memory_bytes=two_models_bytes(measured))
    publish(site)
    site.poll()
    publish(site)
    site.poll()
    assert site.version() == 2, "the budget has room for a swap"
    site.publisher.publish("other", LLAMA)
    site.poll()
    reason = site.reason("other")
    assert reason is not None
    assert "Its weights and cache need" in reason
    assert site.failed_at is LoadStage.LOAD
    site.publisher.retire("demo")
    gc.collect()
    site.poll()
    assert (site.version("demo"), site.version("other")) == (None, 1)


@pytest.mark.parametrize("weights", ["auto", "int8"])
def test_the_estimate_of_a_models_memory_is_what_it_takes(
    tmp_path: Path, weights: WeightType
) -> None:
    site = FollowingSite(tmp_path, inference_weights=weights)
    for name, model in (("a", ARCEE), ("b", LLAMA)):
        site.publisher.publish(name, model)
    site.poll()
    for model in site.registry.models():
        config = model.network.config
        needed = model.network.num_bytes + model.cache.num_bytes
        MemoryBudget(needed, site.runtime.caches, weights).check(config)
        with pytest.raises(Exception, match="Its weights and cache need"):
            MemoryBudget(needed - 1, site.runtime.caches, weights).check(config)


def test_rounded_weights_are_served_under_their_label(tmp_path: Path) -> None:
    """The loader compares the loss with the trainer's; what is off by rounding passes."""
    plain, site = FollowingSite(tmp_path), FollowingSite(tmp_path, inference_weights="int8")
    site.publisher.publish("demo", ARCEE)
    found = []
    for one in (plain, site):
        one.poll()
        (model,) = one.registry.models()
        row = BatchRow(ids=[5, 6, 7], start=0, slot=0, num_logits=3)
        found.append(model.compute([row]).softmax(-1))
        assert model.fingerprint.endswith("-bags-cpu-int8" if one is site else "-bags-cpu")
    assert 0 < (found[0] - found[1]).abs().max() < 0.02
    described = {"device": "cpu", "dtype": "float32", "attention": "bags"}
    assert plain.runtime.describe() == {**described, "weights": "float32"}
    assert site.runtime.describe() == {**described, "weights": "int8"}


def test_what_a_replaced_version_frees_goes_back_to_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int | None] = []
    site = FollowingSite(tmp_path)
    monkeypatch.setattr(memory, "trim_heap", lambda: trims.append(site.version()))
    publish(site)
    site.poll()
    site.poll()
    assert trims == [1]
    old = site.registry.resolve("demo")
    publish(site)
    site.poll()
    site.poll()
    assert trims == [1, 2], "the old version is in use"
    del old
    gc.collect()
    site.poll()
    site.poll()
    assert trims == [1, 2, 2]


def test_versions_with_the_same_tokenizer_share_it(tmp_path: Path) -> None:
    site = FollowingSite(tmp_path)
    publish(site)
    site.poll()
    old = site.registry.resolve("demo")
    publish(site)
    site.poll()
    assert site.registry.resolve("demo").tokenizer is old.tokenizer


def test_a_served_model_keeps_nothing_of_its_file(tmp_path: Path) -> None:
    """A file that is changed under it, or cut, must not change answers or kill the process."""
    site = FollowingSite(tmp_path)
    publish(site)
    site.poll()
    assert site.version() == 1
    assert MODEL_WEIGHTS not in Path("/proc/self/maps").read_text()


class Crash(BaseException):
    """The process dies here."""


def test_after_a_crash_between_rename_and_switch_the_files_on_disk_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = FollowingSite(tmp_path)
    publish(site)

    def die(_folder: Path) -> Tokenizer:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "load", die)
        with pytest.raises(Crash):
            site.poll()
    assert site.version() is None
    restarted = FollowingSite(tmp_path)
    monkeypatch.setattr(restarted.store, "stream", die)  # nothing is downloaded again
    restarted.poll()
    assert restarted.version() == 1


def test_what_a_killed_download_left_is_deleted_with_the_next_swap(tmp_path: Path) -> None:
    site = FollowingSite(tmp_path)
    publish(site)
    half = site.folder / ".ckpt_killed.0123.tmp"
    half.mkdir(parents=True)
    (half / MODEL_WEIGHTS).write_bytes(b"half of it")
    site.poll()
    assert site.version() == 1
    assert not half.exists()
    assert isinstance(site.watcher, ModelWatcher)
