"""The digits: their data, and a short run of the whole."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, which has the digits, is not installed")
pytest.importorskip("matplotlib", reason="matplotlib, which draws the curves, is not installed")

data = importlib.import_module("plait.demo.digits.data")


def test_split_is_fixed_and_complete():
    digits = data.load_digits()
    assert digits.train_images.shape == (1437, 64) and digits.test_images.shape == (360, 64)
    assert np.abs(digits.train_images).max() <= 1
    share = np.bincount(digits.test_labels) / np.bincount(digits.train_labels)
    assert share.min() > 0.24 and share.max() < 0.26


def test_batches_follow_seed_and_epoch():
    digits = data.load_digits()
    labels = lambda epoch, seed: [y.tolist() for _, y in data.batches(digits, 64, epoch, seed)]
    assert len(labels(0, 0)) == 22
    assert labels(0, 0) == labels(0, 0) != labels(1, 0)
    assert labels(0, 0) != labels(0, 1)


@pytest.mark.slow
def test_short_run(tmp_path):
    typer = importlib.import_module("typer.testing")
    cli = importlib.import_module("plait.cli")
    figures = tmp_path / "deep" / "figures.json"
    arguments = ["demo", "--epochs", "4", "--out", str(tmp_path), "--json", str(figures)]
    result = typer.CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    read = json.loads(figures.read_text())
    assert read["held_out_accuracy"] >= 0.93
    assert read["largest_relative_loss_difference"] <= 1e-4
    assert read["compiled"]["steps_per_second"] > 0
    assert read["kernels"]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "PlainAOTInput" in result.output and "images" in result.output
