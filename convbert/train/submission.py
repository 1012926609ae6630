"""`convbert submission`: the zip for GLUE's leaderboard, from predictions or from checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convbert.data import leaderboard


@dataclass(frozen=True)
class SubmissionConfig:
    """Options of `convbert submission`; which test set a file is of is told by its name."""

    input_dir: str  # folder of eleven TSV files: AX, CoLA, MNLI-m, MNLI-mm, MRPC, QNLI, QQP, …
    output_file: str = "submission.zip"  # zip to write
    checkpoint_dir: str = ""  # folder of models, cola/ … wnli/; files that are missing come of them
    wnli_majority: bool = False  # the majority class for all of WNLI, in place of a model
    max_seq_length: int = 128  # of predictions from checkpoints: longer inputs are truncated
    batch_size: int = 32  # likewise: inputs at a time
    device: str = "auto"  # likewise: auto, cpu or gpu


def submission(config: SubmissionConfig) -> None:
    """Predict what is missing, check all files, write the zip.

    Raises:
        FileNotFoundError: no such folder, or no data for a model to predict on.
        ValueError: files that the leaderboard would refuse; nothing is written then.
    """
    folder, output_file = Path(config.input_dir), Path(config.output_file)
    if config.checkpoint_dir or config.wnli_majority:
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        raise FileNotFoundError(f"input_dir={folder}: no such folder")
    if output_file.is_dir():
        raise IsADirectoryError(f"output_file={output_file}: is a folder, name a file")
    if config.wnli_majority:
        _write_majority(folder / "WNLI.tsv")
    if config.checkpoint_dir:
        _predict_missing(config, folder)
    for name, values in leaderboard.pack(folder, output_file).items():
        one = ", the same for all" if len(set(values)) == 1 else ""
        print(f"{name}: {len(values)} predictions{one}")
    print(f"wrote {output_file}")


def _write_majority(file: Path) -> None:
    """Write WNLI's majority class: of its test set, 65.1 %; trained models do worse."""
    if file.exists():
        raise ValueError(f"wnli_majority: {file} is there already; leave out the option, or it")
    print("WNLI: the majority class 0 for all rows, no model; 65.1 on the leaderboard")
    leaderboard.write(file, "wnli", [0] * leaderboard.FILES["WNLI"].rows)


def _predict_missing(config: SubmissionConfig, folder: Path) -> None:
    """Predict with the models of `checkpoint_dir` what `folder` lacks; AX with that of mnli."""
    from convbert.train import predict  # brings Paddle, so not before it is needed

    for name, test in leaderboard.FILES.items():
        task = "mnli" if test.task == "ax" else test.task
        model = Path(config.checkpoint_dir, task)
        if (folder / f"{name}.tsv").exists() or not model.is_dir():
            continue  # what is still missing is reported with all the rest
        options = predict.PredictConfig(
            task_name=test.task,
            model_name_or_path=str(model),
            output_dir=str(folder),
            max_seq_length=config.max_seq_length,
            batch_size=config.batch_size,
            device=config.device,
        )
        predict.predict(options)
