"""The language model of `plait demo --text`: its text, its rival, its steps, and a short run."""

from __future__ import annotations

import importlib
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import plait
from plait.base.errors import InvalidArgument

pytest.importorskip("matplotlib", reason="matplotlib, which draws the curves, is not installed")

corpus = importlib.import_module("plait.demo.text.corpus")
bigram = importlib.import_module("plait.demo.text.bigram")
main = importlib.import_module("plait.demo.text.main")
model = importlib.import_module("plait.demo.text.model")
training = importlib.import_module("plait.demo.text.training")
writing = importlib.import_module("plait.demo.text.writing")
figures = importlib.import_module("plait.demo.figures")
cli = importlib.import_module("plait.cli")

TINY = model.Settings(width=8, layers=2, heads=2, length=12, batch=2, steps=4, report_every=2)
VOCABULARY = len(corpus.ALPHABET)


@pytest.fixture(scope="module")
def library():
    return corpus.load_corpus()


# ---------------------------------------------------------------- the text


def test_characters_have_positions_and_back():
    text = "def f(x):\n    return x ** 2  # ~\n"
    assert corpus.spell(corpus.read(text)) == text
    assert corpus.spell(corpus.read("a\tb\r\nc")) == "a\N{REPLACEMENT CHARACTER}b\nc"
    assert len(set(corpus.ALPHABET)) == VOCABULARY == 97


def test_every_tenth_file_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "LEAST", 1)
    for i in range(20):
        (tmp_path / f"file{i:02}.py").write_text(chr(97 + i) * 3)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "unread.py").write_text("Z")
    (tmp_path / "unread.txt").write_text("Z")
    found = corpus.load_corpus(tmp_path)
    assert found.files == 20
    assert corpus.spell(found.held_out) == "jjjttt"
    assert "j" not in corpus.spell(found.train) and corpus.spell(found.train).startswith("aaabbb")


def test_a_library_without_its_sources_is_said_to_be_so(tmp_path, monkeypatch):
    (tmp_path / "os.pyc").write_bytes(b"no source")
    for folder in (tmp_path, tmp_path / "python311.zip"):
        monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name, to=folder: str(to))
        with pytest.raises(InvalidArgument, match="zipped or without its sources.*--source"):
            corpus.load_corpus()
    with pytest.raises(InvalidArgument, match="in 0 files under .*Name a larger folder"):
        corpus.load_corpus(tmp_path)


def test_batches_follow_seed_and_step(library):
    characters, following = corpus.batch(library, 4, 16, seed=0, step=3)
    assert characters.shape == following.shape == (4, 16) and characters.dtype is plait.int64
    assert characters[:, 1:].tolist() == following[:, :-1].tolist()
    again, other = (corpus.batch(library, 4, 16, 0, step)[0] for step in (3, 4))
    assert characters.tolist() == again.tolist() != other.tolist()


def test_held_out_windows_reach_from_end_to_end(library):
    characters, following = corpus.held_out_windows(library, 5, 8)
    assert characters[0].tolist() == library.held_out[:8].tolist()
    assert following[-1].tolist() == library.held_out[-8:].tolist()


# ---------------------------------------------------------------- the bigram model


def test_the_bigram_model_is_counting(rng):
    text = rng.integers(0, 4, 200).astype(np.uint8)
    ours = bigram.Bigram(text, 5, smoothing=0.5)
    pairs = Counter(zip(text[:-1].tolist(), text[1:].tolist()))
    rows = Counter(text[:-1].tolist())
    likely = lambda a, b: (pairs[a, b] + 0.5) / (rows[a] + 2.5)
    for a in range(5):
        row = [math.exp(p) for p in ours.log_probabilities[a]]
        assert row == pytest.approx([likely(a, b) for b in range(5)]) and sum(row) == pytest.approx(
            1
        )
    unseen = np.array([4, 0]), np.array([4, 4])
    wanted = -(math.log(likely(4, 4)) + math.log(likely(0, 4))) / 2
    assert ours.cross_entropy(*unseen) == pytest.approx(wanted)


def test_its_entropy_is_its_loss_on_what_it_counted(library):
    text = library.held_out
    ours = bigram.Bigram(text, VOCABULARY, smoothing=1e-9)
    assert ours.entropy == pytest.approx(ours.cross_entropy(text[:-1], text[1:]), rel=1e-6)
    smoothed = bigram.Bigram(text, VOCABULARY)
    assert ours.entropy < smoothed.entropy < 1.01 * ours.entropy


def test_both_models_are_measured_on_the_same_places(library):
    rival = main.measure_bigram(library, TINY)
    characters, following = corpus.held_out_windows(library, TINY.held_out, TINY.length)
    ours = bigram.Bigram(library.train, VOCABULARY)
    given = characters.flatten().tolist(), following.flatten().tolist()
    wanted = -np.mean([ours.log_probabilities[a, b] for a, b in zip(*given)])
    assert rival.cross_entropy == pytest.approx(wanted)


# ---------------------------------------------------------------- the model


def make_run(settings=TINY):
    plait.manual_seed(0)
    made = model.CharacterModel(VOCABULARY, settings)
    params = {name: p.detach() for name, p in made.named_parameters()}
    return training.Run("made", made, params, None)


def test_the_table_of_characters_reads_out_too():
    names = [name for name, _ in make_run().model.named_parameters()]
    assert "embedding.weight" in names and "head.weight" not in names


def test_a_cache_gives_what_the_whole_gives():
    made = make_run().model
    characters = plait.from_numpy(corpus.read("import sys")[None].astype(np.int64))
    whole = made(characters)
    logits, caches = made(characters[:, :4], use_cache=True)
    parts = [logits]
    for at in range(4, 10):
        logits, caches = made(characters[:, at : at + 1], caches)
        parts.append(logits)
    apart = (plait.cat(parts, 1) - whole).abs().max()
    assert len(caches) == 2 and apart.item() < 1e-5


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_sequence_longer_than_the_position_table_is_refused(backend):
    made = make_run().model
    call = made if backend is None else plait.compile(made, backend=backend)
    with pytest.raises(InvalidArgument, match="longer than the position table.*less than 12"):
        call(plait.zeros(1, 13, dtype=plait.int64))


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_a_text_longer_than_the_position_table_is_refused(backend):
    run = make_run()
    write = lambda length: writing.write_all(
        run, TINY, backend=backend, seed=0, prompts=("ab",), length=length
    )
    with pytest.raises(InvalidArgument, match="longer than the position table.*less than 12"):
        write(14)
    assert len(write(12).texts[0]) == 12
    with pytest.raises(InvalidArgument, match="argument 'prompts'"):
        writing.write_all(run, TINY, backend=backend, seed=0, prompts=("a",))


def test_one_entry_writes_at_every_length_what_eager_writes():
    run, settings = make_run(), replace(TINY, length=24)
    run = make_run(settings)
    eager, compiled = (writing.write_all(run, settings, backend=b, seed=5) for b in (None, "llvm"))
    assert compiled.texts == eager.texts and {len(text) for text in eager.texts} == {24}
    assert compiled.entries == 1 and not compiled.step.recompiles
    assert eager.entries == 0 and eager.clock.steps > 50


# ---------------------------------------------------------------- the whole


def test_losses_that_are_apart_or_no_numbers_are_seen():
    assert figures.largest_difference([2.0, 4.0], [2.0, 4.004]) == pytest.approx(1e-3)
    assert figures.largest_difference([2.0], [math.nan]) == math.inf


def verdict(**changes):
    fine = {
        "largest_relative_loss_difference": 1e-6,
        "held_out_loss": 2.0,
        "bigram": {"cross_entropy": 2.5, "entropy": 2.4},
        "beaten_at_step": 10,
        "beaten_after_seconds": 1.0,
        "is_full": True,
        "speed_up": 2.0,
        "writing": {"entries": 1},
    }
    return main._verdict(main.Console(quiet=True), fine | changes)


def test_what_the_command_demands():
    assert verdict()
    assert not verdict(largest_relative_loss_difference=1.1e-3)
    assert not verdict(largest_relative_loss_difference=math.inf, is_full=False)
    assert not verdict(held_out_loss=2.45) and verdict(held_out_loss=2.45, is_full=False)
    assert not verdict(writing={"entries": 2})


def test_options_go_with_their_demo(monkeypatch):
    invoke = lambda *options: CliRunner().invoke(cli.app, ["demo", *options])
    for options in (["--text", "--epochs", "3"], ["--steps", "3"], ["--quick"]):
        assert invoke(*options).exit_code == 2
    seen = {}
    monkeypatch.setattr(main, "run_text_demo", lambda console, **given: bool(seen.update(given)))
    assert invoke("--text", "--steps", "7").exit_code == 1
    assert seen["settings"] == replace(model.FULL, steps=7)
    monkeypatch.setattr(main, "run_text_demo", lambda console, **given: True)
    assert invoke("--text", "--quick").exit_code == 0


@pytest.mark.slow
def test_a_quick_run(tmp_path):
    path = tmp_path / "deep" / "figures.json"
    arguments = ["demo", "--text", "--quick", "--out", str(tmp_path), "--json", str(path)]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    read = json.loads(path.read_text())
    assert read["largest_relative_loss_difference"] <= main.ALLOWED_DIFFERENCE
    reports = read["compiled"]["reports"]
    assert [report["step"] for report in reports] == [10, 20, 30, 40]
    assert reports[-1]["held_out_loss"] < reports[0]["held_out_loss"]
    assert read["writing"]["entries"] == 1 and read["writing"]["same_texts"]
    assert read["kernels"] and sum(read["compiled"]["cache"].values()) > 0
    assert (tmp_path / "text.png").read_bytes().startswith(b"\x89PNG")
    assert "bigram" in result.output and "tokens/s" in result.output
