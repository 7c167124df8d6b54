"""Following pointers: every failure leaves the served version in place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.inference.registry import ModelNotFoundError, ModelNotReadyError
from shared.base.clock import utc_now
from shared.base.errors import UnavailableError
from shared.contracts.manifest import MODEL_CONFIG_JSON, MODEL_WEIGHTS, TOKENIZER_JSON
from shared.contracts.serving import MODELS_INDEX_KEY, ModelPointer
from tests.support.following import FollowingSite as Site
from tests.support.models import small_tokenizer
from tests.support.serving import SMALL_MODELS, random_model

CONFIG = SMALL_MODELS["arcee"]
FIRST, SECOND = random_model(CONFIG, seed=1), random_model(CONFIG, seed=2)


@contextmanager
def break_off(_key: str) -> Iterator[Iterator[bytes]]:
    """A download that ends in the middle."""

    def chunks() -> Iterator[bytes]:
        yield b"half of it"
        raise UnavailableError("The connection broke.")

    yield chunks()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_without_an_index_nothing_is_served_and_nothing_is_wrong(site: Site) -> None:
    site.poll()
    assert site.registry.models() == site.registry.failures() == []
    with pytest.raises(ModelNotReadyError, match="No model is published yet"):
        site.registry.resolve(None)
    with pytest.raises(ModelNotReadyError, match="there is no 'demo'"):
        site.registry.resolve("demo")


def test_a_published_version_is_served_and_a_newer_one_replaces_it(site: Site) -> None:
    site.publisher.publish("demo", FIRST)
    site.poll()
    site.publisher.publish("demo", SECOND)
    before = site.registry.resolve("demo")
    site.poll()
    assert (before.version, site.version()) == (1, 2)
    assert site.swaps == [(1, True), (2, True)]


def test_an_unchanged_index_loads_nothing_again(site: Site) -> None:
    pointer = site.publisher.publish("demo", FIRST)
    site.poll()
    site.poll()
    site.publisher.point_to(pointer)  # the same version under a new sequence number
    site.poll()
    assert site.loads == [1]


def test_of_two_versions_between_polls_the_newest_is_loaded_alone(site: Site) -> None:
    site.publisher.publish("demo", FIRST)
    site.publisher.publish("demo", SECOND)
    site.poll()
    assert (site.loads, site.version()) == ([2], 2)


def test_a_pointer_that_goes_back_is_a_rollback(site: Site) -> None:
    first = site.publisher.publish("demo", FIRST)
    site.poll()
    site.publisher.publish("demo", SECOND)
    site.poll()
    site.store.delete([key for key in site.store.list_keys("jobs/") if "step-1/model" in key])
    site.publisher.point_to(first)
    site.poll()
    assert site.version() == 1, "its files were still on this disk"


def test_an_old_index_written_late_is_ignored(site: Site) -> None:
    site.publisher.publish("demo", FIRST)
    old = site.store.get_bytes(MODELS_INDEX_KEY)
    site.publisher.publish("demo", SECOND)
    site.poll()
    site.store.put_bytes(MODELS_INDEX_KEY, old)
    site.poll()
    assert (site.loads, site.version()) == ([2], 2)


def test_an_older_pointer_to_another_version_is_ignored_after_one_to_the_same(site: Site) -> None:
    first = site.publisher.publish("demo", FIRST)
    second = site.publisher.publish("demo", SECOND)
    site.poll()
    site.publisher.point_to(first)
    between = site.store.get_bytes(MODELS_INDEX_KEY)
    site.publisher.point_to(second)
    site.poll()
    site.store.put_bytes(MODELS_INDEX_KEY, between)
    site.poll()
    assert (site.loads, site.version()) == ([2], 2)


def test_seconds_are_counted_from_a_publication_and_not_from_an_old_one(site: Site) -> None:
    first = site.publisher.publish("demo", FIRST)
    site.poll()
    late = utc_now() + timedelta(seconds=60)
    second = site.publisher.store_version("demo", 2, SECOND)
    second = second.model_copy(update={"published_at": late})
    for pointer in (second, first, second):
        site.publisher.point_to(pointer)
        site.poll()
    assert [version for version, _ in site.swaps] == [1, 2, 1, 2]
    assert site.swap_seconds == [None, 0.0, None, None]


def spoil_weights(name: str, value: float) -> Any:
    def spoil(folder: Path) -> None:
        state = load_file(folder / MODEL_WEIGHTS)
        state[name].view(-1)[3] = value
        save_file(state, folder / MODEL_WEIGHTS)

    return spoil


def drop_tensor(folder: Path) -> None:
    state = load_file(folder / MODEL_WEIGHTS)
    del state["model.norm.weight"]
    save_file(state, folder / MODEL_WEIGHTS)


def change_shape(folder: Path) -> None:
    state = load_file(folder / MODEL_WEIGHTS)
    state["model.norm.weight"] = torch.ones(63)
    save_file(state, folder / MODEL_WEIGHTS)


def overflow(folder: Path) -> None:
    """Every weight is finite, but the square inside the feed-forward is not."""
    state = load_file(folder / MODEL_WEIGHTS)
    state["model.layers.0.mlp.up_proj.weight"] *= 1e25
    save_file(state, folder / MODEL_WEIGHTS)


def exchange_layers(folder: Path) -> None:
    """Whole, finite, of the right shapes, and another model."""
    state = load_file(folder / MODEL_WEIGHTS)
    one, other = (f"model.layers.{n}.self_attn.q_proj.weight" for n in (0, 1))
    state[one], state[other] = state[other], state[one]
    save_file(state, folder / MODEL_WEIGHTS)


def other_tokenizer(folder: Path) -> None:
    (folder / TOKENIZER_JSON).write_text(small_tokenizer(310).json_text)


def other_config(folder: Path) -> None:
    changed = CONFIG.model_copy(update={"rope_theta": 5000.0})
    (folder / MODEL_CONFIG_JSON).write_text(changed.model_dump_json())


def cut_weights(folder: Path) -> None:
    content = (folder / MODEL_WEIGHTS).read_bytes()
    (folder / MODEL_WEIGHTS).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_weights("model.layers.1.mlp.up_proj.weight", float("nan")), "holds NaN"),
        (spoil_weights("model.embed_tokens.weight", float("inf")), "holds NaN or infinity"),
        (overflow, "computes NaN or infinity for a test text"),
        (exchange_layers, r"a loss of \d+\.\d{4} on the test text, and its trainer found \d"),
        (drop_tensor, "The weights lack model.norm.weight"),
        (change_shape, r"model.norm.weight has shape \(63,\), expected \(64,\)"),
        (cut_weights, "is not a whole safetensors file"),
        (other_tokenizer, "another tokenizer than it was trained with"),
        (other_config, "model_config.json differs from its manifest"),
    ],
)
def test_a_bad_checkpoint_is_refused_once_and_the_old_one_serves(
    site: Site, spoil: Any, reason: str
) -> None:
    site.publisher.publish("demo", FIRST)
    site.poll()
    site.publisher.publish("demo", SECOND, spoil=spoil)
    for _ in range(3):
        site.poll()
    assert site.version() == 1
    assert site.loads == [1, 2], "the same bad version was tried again"
    found = site.reason()
    assert found is not None
    assert re.search(reason, found)
    site.publisher.publish("demo", SECOND)
    site.poll()
    assert (site.version(), site.reason()) == (3, None)


def test_a_version_whose_loss_nobody_noted_is_only_tried(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.serving.canary_loss", lambda *_: None)
    site.publisher.publish("demo", FIRST, spoil=exchange_layers)
    site.poll()
    assert site.version() == 1


def change_object(site: Site, pointer: ModelPointer, change: Any) -> None:
    key = pointer.manifest_key.replace("manifest.json", MODEL_WEIGHTS)
    site.store.put_bytes(key, change(site.store.get_bytes(key)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-1] + b"\x00", "has another sha256 than its manifest says"),
        (lambda content: content[:-5], "its manifest says"),
        (lambda content: content + b"x", "has more than"),
    ],
)
def test_changed_bytes_in_the_store_are_refused(site: Site, change: Any, reason: str) -> None:
    site.publisher.publish("demo", FIRST)
    site.poll()
    change_object(site, site.publisher.publish("demo", SECOND), change)
    site.poll()
    site.poll()
    assert (site.version(), site.loads) == (1, [1, 2])
    assert reason in str(site.reason())
    left = sorted(path.name for path in site.folder.iterdir())
    served = site.registry.resolve("demo").pointer.checkpoint_id
    assert left == [served], "parts of a refused download stayed on disk"


def test_a_changed_manifest_is_refused(site: Site) -> None:
    pointer = site.publisher.publish("demo", FIRST)
    site.store.put_bytes(pointer.manifest_key, b"{}")
    site.poll()
    assert (site.version(), site.loads) == (None, [1])
    assert "another sha256 than it was published with" in str(site.reason())
    with pytest.raises(ModelNotReadyError, match="cannot be served"):
        site.registry.resolve("demo")


def test_a_rollback_to_the_served_version_clears_the_failure(site: Site) -> None:
    first = site.publisher.publish("demo", FIRST)
    site.poll()
    site.publisher.publish("demo", SECOND, spoil=drop_tensor)
    site.poll()
    site.publisher.point_to(first)
    site.poll()
    assert (site.version(), site.reason(), site.loads) == (1, None, [1, 2])


def test_a_store_that_is_away_is_tried_again_and_the_old_version_serves(
    site: Site,
) -> None:
    site.publisher.publish("demo", FIRST)
    site.poll()
    site.publisher.publish("demo", SECOND)
    site.store.away = True
    site.poll()
    assert (site.version(), site.reason()) == (1, None)
    site.store.away = False
    site.poll()
    assert site.version() == 2


def test_a_download_that_breaks_off_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publisher.publish("demo", FIRST)
    with monkeypatch.context() as patch:
        patch.setattr(site.store, "stream", break_off)
        site.poll()
        assert "The connection broke" in str(site.reason())
    site.poll()
    assert (site.version(), site.reason(), site.loads) == (1, None, [1, 1])


def test_an_index_that_is_no_json_or_vanishes_changes_nothing(site: Site) -> None:
    site.publisher.publish("demo", FIRST)
    site.poll()
    site.store.put_bytes(MODELS_INDEX_KEY, b"{half")
    site.poll()
    site.store.delete([MODELS_INDEX_KEY])
    site.poll()
    assert site.version() == 1


def test_files_damaged_on_this_disk_are_downloaded_again(site: Site) -> None:
    first = site.publisher.publish("demo", FIRST)
    site.poll()
    weights = site.folder / first.checkpoint_id / MODEL_WEIGHTS
    good = weights.read_bytes()
    damaged = weights.with_suffix(".damaged")
    damaged.write_bytes(good[:-1] + b"?")
    damaged.rename(weights)
    again = Site(site.folder.parent)
    again.poll()
    assert again.version() == 1
    assert weights.read_bytes() == good


def test_only_the_served_and_the_previous_versions_stay_on_disk(site: Site) -> None:
    ids = []
    for seed in range(4):
        pointer = site.publisher.publish("demo", random_model(CONFIG, seed=seed))
        ids.append(pointer.checkpoint_id)
        site.poll()
    assert sorted(path.name for path in site.folder.iterdir()) == sorted(ids[-2:])


def test_models_follow_their_own_pointers(site: Site) -> None:
    site.publisher.publish("base", FIRST)
    site.publisher.publish("chat", SECOND, stage="finetune")
    site.publisher.publish("base", SECOND)
    site.poll()
    assert [(m.name, m.version) for m in site.registry.models()] == [("base", 2), ("chat", 1)]
    assert site.registry.resolve(None).name == "base"
    assert site.registry.resolve(None, prefer="finetune").name == "chat"
    site.publisher.retire("chat")
    site.poll()
    assert [m.name for m in site.registry.models()] == ["base"]
    assert site.registry.resolve(None, prefer="finetune").name == "base"


def test_a_bad_model_does_not_keep_others_from_being_served(site: Site) -> None:
    site.publisher.publish("bad", FIRST, spoil=drop_tensor)
    site.publisher.publish("good", SECOND)
    site.poll()
    assert (site.version("bad"), site.version("good")) == (None, 1)


def test_an_unknown_name_says_which_there_are(site: Site) -> None:
    site.publisher.publish("demo", FIRST)
    site.poll()
    with pytest.raises(ModelNotFoundError, match=r"'x' does not exist. Published: demo"):
        site.registry.resolve("x")
    with pytest.raises(ModelNotFoundError) as caught:
        site.registry.resolve("demo:1")
    assert "A version cannot be chosen by name" in str(caught.value.hint)
