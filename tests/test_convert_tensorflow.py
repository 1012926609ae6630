"""The authors' TensorFlow checkpoints, from the file to a model and to a converted directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_weights_tensorflow as tf_files
from support import randomize, small_config
from test_convert import convert, same

from convbert import heads
from convbert.model import ConvBertModel
from convbert.tokenizer import SPECIAL_TOKENS, ConvBertTokenizer
from convbert.weights import loading


@pytest.mark.parametrize("ending", ["", ".index", None])
def test_tensorflows_files(ending: str | None, tmp_path: Path, capsys: Any):
    """By prefix, by index file and by folder, without config.json."""
    tokens = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(56))]
    model = randomize(heads.ConvBertForPreTraining(small_config(generator_fraction=0.5)))
    (tmp_path / "source").mkdir()
    ConvBertTokenizer(tokens).save_pretrained(tmp_path / "source")
    prefix = tf_files.write(tmp_path / "source" / "model.ckpt-1", tf_files.to_tensorflow(model))
    source = prefix.parent if ending is None else Path(f"{prefix}{ending}")
    again = heads.ConvBertForPreTraining.from_pretrained(source)
    assert same(again, model)
    assert same(ConvBertModel.from_pretrained(source), model.discriminator.convbert)
    assert convert(source, tmp_path / "target") == 0
    said = capsys.readouterr().out
    count = len(loading.unique_state(model))
    assert f"tensorflow layout, {count} arrays, ConvBertForPreTraining" in said
    target = tmp_path / "target"
    assert same(heads.ConvBertDiscriminator.from_pretrained(target), model.discriminator)
    generator = heads.ConvBertForMaskedLM.from_pretrained(target / "generator")
    assert same(generator, model.generator)
    assert ConvBertTokenizer.from_pretrained(target).vocabulary == tokens
