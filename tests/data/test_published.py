"""Published data sets as they lie on the hub and in downloaded folders: one part is read, or all of them named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from promptcot_mamba.data.rows import find_row_files
from promptcot_mamba.data.sources import find_source, parse_sources
from promptcot_mamba.errors import InputError

ROW = '{"prompt": "p", "completion": "c"}\n'


def config(name: str, **splits: str | list[str]) -> dict:
    return {
        "config_name": name, "data_files": [{"split": split, "path": path} for split, path in splits.items()],
    }  # fmt: skip


def shards(*stems: str, count: int = 2) -> list[str]:
    return [f"{stem}-{number:05d}-of-{count:05d}.parquet" for stem in stems for number in range(count)]


ULTRA_CONFIG = config(
    "default",
    **{split: f"data/{split}-*" for split in ("train_prefs", "train_sft", "test_prefs", "test_sft", "train_gen")},
)
# name -> (files, the card's configs or None, the start of what is read)
READ = {
    "one split": (shards("data/train", "data/test"), None, ["data/train-"]),
    "one split, hashed names": (
        ["data/train-00000-of-00001-6ef3991c06080e14.parquet", "data/test-00000-of-00001-6ef3991c06080e14.parquet"],
        None,
        ["data/train-"],
    ),
    "jsonl beside its tests": (["train.jsonl", "test.jsonl"], None, ["train.jsonl"]),
    # open-r1/OpenR1-Math-220k
    "a default among others": (
        shards("all/default", "data/train", "extended/train"),
        [config("all", train="all/*"), config("default", train="data/train-*"), config("x", train="extended/train-*")],
        ["data/train-"],
    ),
    # agentlans/train-of-thought
    "a config marked as the default": (
        ["train_1K.jsonl.zst", "train_all.jsonl.zst"],
        [config("1K", train=["train_1K.jsonl.zst"]), config("all", train=["train_all.jsonl.zst"]) | {"default": True}],
        ["train_all.jsonl.zst"],
    ),
    "a list of globs": (
        ["a.jsonl", "b.jsonl", "notes/c.jsonl"],
        [{"config_name": "default", "data_files": ["./a.jsonl", "notes/*.jsonl"]}],
        ["a.jsonl", "notes/c.jsonl"],
    ),
    "one glob": (["a.jsonl", "held.jsonl"], [{"config_name": "default", "data_files": "a*"}], ["a.jsonl"]),
    "a folder": (
        [*shards("math/train", "math/test"), "code/x.jsonl"],
        [{"config_name": "default", "data_dir": "math"}],
        ["math/train-"],
    ),
    "a held-out file": (
        ["data.csv", "holdout.csv"], [config("default", train="data.csv", test="holdout.csv")], ["data.csv"],
    ),
    "the only split that is not a test": (
        shards("data/train_sft", "data/test_sft", "data/extra"),
        [config("default", train_sft="data/train_sft-*", test_sft="data/test_sft-*")],
        ["data/train_sft-"],
    ),
    "deeper folders": (
        shards("train/python/train", "train/cpp/train"),
        [config("train", train="train/**")],
        ["train/cpp/train-", "train/python/train-"],
    ),
    "what of its configs is here": (
        shards("math/train", "math/extra"),
        [config("all", train="all/train-*"), config("math", train="math/train-*")],
        ["math/train-"],
    ),
    "train, among shards of other splits": (shards("data/train", "data/train_extra"), None, ["data/train-"]),
}  # fmt: skip
# name -> (files, the card's configs or None, what is wrong, a part that may be chosen)
REFUSED = {
    "open-r1/Mixture-of-Thoughts": (
        shards("all/train", "code/train", "math/train", "science/train"),
        [config(name, train=f"{name}/train-*") for name in ("all", "code", "math", "science")],
        "several configs, none of which is its default: all (all/train-*), code (code/train-*), math (math/train-*), ",
        "all/train-*",
    ),
    "HuggingFaceTB/smoltalk": (
        shards("data/all/train", "data/all/test", "data/numina-cot-100k/train", "data/numina-cot-100k/test"),
        [config(name, train=f"data/{name}/train-*", test=f"data/{name}/test-*") for name in ("all", "numina-cot-100k")],
        "several configs, none of which is its default: all (data/all/train-*), numina-cot-100k (data/numina-cot-100k/",
        "data/all/train-*",
    ),
    "HuggingFaceH4/ultrafeedback_binarized": (
        shards("data/train_prefs", "data/train_sft", "data/test_prefs", "data/test_sft", "data/train_gen"),
        [ULTRA_CONFIG],
        "several splits, none of which is its default: train_prefs (data/train_prefs-*), train_sft (data/train_sft-*), "
        "train_gen (data/train_gen-*)",
        "data/train_prefs-*",
    ),
    "the same without its card": (
        shards("data/train_prefs", "data/train_sft", "data/test_prefs", "data/test_sft", "data/train_gen"),
        None,
        "several splits, none of which is its default: train_gen (data/train_gen-*), train_prefs (data/train_",
        "data/train_gen-*",
    ),
    "nvidia/OpenCodeReasoning-2": (
        shards("train/python/train", "train/cpp/train"),
        [config("train", python="train/python/train-*", cpp="train/cpp/train-*")],
        "several splits, none of which is its default: python (train/python/train-*), cpp (train/cpp/train-*)",
        "train/python/train-*",
    ),
    "a-m-team/AM-DeepSeek-R1-Distilled-1.4M": (
        ["am_0.5M.jsonl.zst", "am_0.9M.jsonl.zst", "am_0.9M_sample_1k.jsonl"],
        [
            {"config_name": "am_0.5M", "data_files": "am_0.5M.jsonl.zst"},
            {"config_name": "am_0.9M", "data_files": "am_0.9M.jsonl.zst"},
            {"config_name": "am_0.9M_sample_1k", "data_files": "am_0.9M_sample_1k.jsonl"},
        ],
        "several configs, none of which is its default: am_0.5M (am_0.5M.jsonl.zst), am_0.9M (am_0.9M.jsonl.zst), am_",
        "am_0.5M.jsonl.zst",
    ),
}  # fmt: skip
# What only the hub's list is read by: in a folder of one's own all rows are read.
BY_NAMES = {
    "packed or not": (
        ["am_0.5M.jsonl.zst", "am_0.9M.jsonl.zst", "am_0.9M_sample_1k.jsonl"],
        ["am_0.5M.jsonl.zst", "am_0.9M.jsonl.zst", "am_0.9M_sample_1k.jsonl"],
    ),
    "two formats of one": (["x.jsonl", "x.parquet", "loss.csv"], ["x.parquet"]),
    "one packed once more": (["x.jsonl", "x.jsonl.gz", "y.jsonl"], ["x.jsonl", "y.jsonl"]),
    "data before the top": (["data/a.jsonl", "more.jsonl"], ["data/a.jsonl"]),
    "one deeper folder": (["rows/v2/a.jsonl", "rows/v2/b.jsonl"], ["rows/v2/a.jsonl", "rows/v2/b.jsonl"]),
    "no rows": (["model.bin", "dataset_infos.json"], []),
}


def lay(folder: Path, files: list[str], configs: list[dict] | None) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(ROW)
    if configs is not None:
        front = yaml.safe_dump({"license": "mit", "configs": configs}, sort_keys=False)
        (folder / "README.md").write_text(f"---\n{front}---\n# A set\n")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A hub whose only repository is a folder; nothing named `tmp/...` lies here."""
    folder = tmp_path / "repository"

    def fetch(repo: str, kind: str, choose) -> list[Path]:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return [folder / name for name in choose(sorted(names))]

    monkeypatch.setattr("promptcot_mamba.data.published.fetch", fetch)
    return folder


def shown(files: list[Path], folder: Path, starts: list[str]) -> bool:
    names = [file.relative_to(folder).as_posix() for file in files]
    return bool(names) and len(names) == len(set(names)) and {
        next((start for start in starts if name.startswith(start)), name) for name in names
    } == set(starts)  # fmt: skip


def generic(**where: str):
    return parse_sources({"a": {"adapter": "generic", "columns": {"prompt": "p", "completion": "c"}, **where}})[0]


@pytest.fixture
def no_columns(monkeypatch):
    monkeypatch.setattr("promptcot_mamba.data.sources.read_columns", lambda _: ["p", "c"])


@pytest.mark.parametrize("name", READ)
def test_the_training_rows_of_one_part_are_read(hub, no_columns, name: str):
    files, configs, starts = READ[name]
    lay(hub, files, configs)
    assert shown(find_row_files("some/set"), hub, starts)
    assert shown(find_source(generic(repo="some/set"), None).files, hub, starts)
    assert shown(find_row_files(hub), hub, starts)
    assert shown(find_source(generic(path=str(hub)), None).files, hub, starts)


@pytest.mark.parametrize("name", REFUSED)
def test_several_parts_are_named_with_how_to_choose_one(hub, no_columns, name: str):
    files, configs, complaint, part = REFUSED[name]
    lay(hub, files, configs)
    with pytest.raises(InputError) as refused:
        find_row_files("some/set")
    text = str(refused.value)
    assert text.startswith(f"--data_path some/set: has {complaint}")
    assert "hf download some/set --repo-type dataset --local-dir DIR" in text
    assert f"pass one of them: --data_path 'DIR/{part}'" in text
    with pytest.raises(InputError) as refused:
        find_row_files(hub)
    assert complaint in str(refused.value)
    assert str(refused.value).endswith(f"pass one of them: --data_path '{hub}/{part}'")
    assert find_row_files(f"{hub}/{part}")  # and so it goes on
    with pytest.raises(InputError) as refused:
        find_source(generic(repo="some/set"), None)
    assert str(refused.value).startswith(f"sources.a: some/set: has {complaint}")
    assert str(refused.value).endswith(f"sources.a.files: [{part}]")
    assert find_source(generic(path=str(hub), files=[part]), None).files == find_row_files(f"{hub}/{part}")


@pytest.mark.parametrize("name", BY_NAMES)
def test_a_set_without_configs_is_read_by_its_names(hub, name: str):
    files, kept = BY_NAMES[name]
    lay(hub, files, None)
    (hub / "README.md").write_text("---\nlicense: mit\nconfigs:\n- cola\n---\n")
    if not kept:
        with pytest.raises(InputError, match="the hub has no"):
            find_row_files("some/set")
        return
    assert [file.relative_to(hub).as_posix() for file in find_row_files("some/set")] == kept


@pytest.mark.parametrize("files", [shards("main/train", "socratic/train"), ["train/a/x.jsonl", "train/b/y.jsonl"]])
def test_several_folders_without_a_card_are_named(hub, files: list[str]):
    lay(hub, files, None)
    with pytest.raises(InputError, match=r"several folders, none of which is its default: (main|train/a) \(\1/\*\), "):
        find_row_files("some/set")


def test_a_card_that_cannot_be_read_is_told(tmp_path, caplog):
    lay(tmp_path, ["a.jsonl", "b.jsonl"], None)
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    assert len(find_row_files(tmp_path)) == 2
    assert "README.md: its front matter cannot be read" in caplog.text
