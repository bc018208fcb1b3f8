"""The training loop of all stages: builds, resumes, goes through the epochs, records, saves."""
import dataclasses
import math
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from config.errors import UserError
from config.options import Options
from dataloaders.loaders import TrainingLoader
from evaluation.command import run_evaluation
from evaluation.tables import averages, positions_table
from models.load import read_resumed
from trainer.bad_samples import LISTED, BadSamples, write_list
from trainer.stages import STAGES, score_of
from utils.checkpoint import WeightsFile, random_state, restore_random_state, save_checkpoint
from utils.distributed import Ranks, any_rank, from_all_ranks, wait_for_all
from utils.files import check_writable, write_json
from utils.folder_lock import FolderLock
from utils.logging import RunLog, logger, progress_bar
from utils.run_folder import BEST, LATEST, PREVIOUS, claim_experiment, latest_experiment

DRY_RUN_STEPS = 5


class Stopped(Exception):
    """A signal asked the program to end; everything is saved. `status` is the exit status."""

    def __init__(self, status: int):
        super().__init__(f"stopped by signal {status - 128}")
        self.status = status


@dataclass
class Progress:
    """Where training stands: the next thing to do is step `step` of pass `pass_index` of epoch `epoch`."""

    epoch: int = 0
    pass_index: int = 0
    step: int = 0
    iteration: int = 0  # optimizer steps taken
    best: float = -math.inf


class Trainer:
    """Does what the options say with a data set: `train()` or `evaluate()`."""

    def __init__(self, options: Options, device: torch.device, ranks: Ranks):
        self.options, self.device, self.ranks = options, device, ranks

    def train(self) -> Path:
        """Train the stage that the options name; returns the run folder. Raises UserError."""
        return Training(self.options, self.device, self.ranks).run()

    def evaluate(self) -> dict:
        """Evaluate on the val split; returns the content of metrics.json. Raises UserError."""
        return run_evaluation(self.options, self.device, self.ranks)


class Training:
    """The training of one stage, from where its options say to its end. `run` returns the run folder."""

    def __init__(self, options: Options, device: torch.device, ranks: Ranks):
        if options.batch_size % ranks.count:
            raise UserError(f"--batch-size {options.batch_size} does not divide over {ranks.count} processes")
        torch.manual_seed(options.seed)
        np.random.seed(options.seed)
        self.options, self.device, self.ranks = options, device, ranks
        self.lock: FolderLock | None = None  # of the first rank, on the run folder
        continued = latest_experiment(options) if options.resume == "auto" else None
        if continued is not None and ranks.first:
            self.lock = FolderLock(continued)  # before its checkpoint is read: nobody may write a newer one meanwhile
        wait_for_all()
        resumed = read_resumed(options)
        self.stage = STAGES[options.stage](options, device, ranks, resumed)
        # Half precision loses small gradients unless the loss is scaled up; the scaler finds by how much.
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
        self.progress = Progress()
        self.loader = TrainingLoader(
            self.stage.passes, batch=options.batch_size, workers=options.num_worker, rank=ranks.rank, ranks=ranks.count,
            skip_bad=options.on_bad_sample == "skip",
        )
        self.bad = BadSamples()  # seen by this rank; by all ranks, as of the last save:
        self.passed_over: Counter[str] = Counter()
        self._folder: Path | None = None
        if resumed is not None:
            self._resume(resumed)
        self.signal = 0  # number of the signal that asked to end
        self.all_saved = False  # whether ending right now would lose nothing
        self.random_states = [random_state()]

    @property
    def folder(self) -> Path:
        """The run folder, which `run` chooses."""
        assert self._folder is not None
        return self._folder

    def run(self) -> Path:
        options, progress = self.options, self.progress
        if self.ranks.first and options.metrics_file:
            check_writable(Path(options.metrics_file), "--metrics-file")
        if self.ranks.first:
            if self._folder is None:
                self._folder, self.lock = claim_experiment(options)
            logger.info("run folder: %s", self.folder)
        self._folder = from_all_ranks(self._folder)[0]
        previous = {number: signal.signal(number, self._note_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with RunLog(self.folder, after=progress.iteration) if self.ranks.first else nullcontext() as log:
                while progress.epoch < options.epoch:
                    self._epoch(log)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if self.lock is not None:
                self.lock.release()
        if self.passed_over and self.ranks.first:
            logger.warning(
                "%d times another sample took the place of one of %d that cannot be read: %s", self.passed_over.total(),
                len(self.passed_over), self.folder / LISTED,
            )
        wait_for_all()
        return self.folder

    def _epoch(self, log: RunLog | None) -> None:
        progress, passes = self.progress, list(self.stage.passes)
        while progress.pass_index < len(passes):
            self._pass(passes[progress.pass_index], log)
            progress.pass_index, progress.step = progress.pass_index + 1, 0
        metrics = None
        if (progress.epoch + 1) % self.options.eval_interval == 0 or progress.epoch + 1 == self.options.epoch:
            metrics = self._evaluate()
        progress.epoch, progress.pass_index = progress.epoch + 1, 0
        score = score_of(metrics) if metrics is not None else None
        # Without evaluation the newest weights count as the best known.
        improved = (score is None and progress.best == -math.inf) or (score is not None and score > progress.best)
        if score is not None and improved:
            progress.best = score
        self._save(score, improved)
        if metrics is not None and log is not None:
            self._report(metrics, improved, log)

    def _evaluate(self) -> dict | None:
        """Evaluate, which can be long: what was trained is saved first, and a signal need not wait."""
        self._save(None, improved=False)
        self._stop_if_asked()
        self.all_saved = True
        try:
            return self.stage.evaluate()
        finally:
            self.all_saved = False

    def _pass(self, interval: int, log: RunLog | None) -> None:
        """The rest, from `progress.step` on, of one pass over the clips of one interval."""
        options, progress, stage = self.options, self.progress, self.stage
        seed = (options.seed, progress.epoch, progress.pass_index)
        left, batches = self.loader.start(interval, seed=seed, skip=progress.step)
        total = progress.step + left
        if options.early_stop:
            total = min(total, DRY_RUN_STEPS)
        if total <= progress.step:
            return
        stage.train_mode()
        name = f"epoch {progress.epoch + 1}/{options.epoch}" + (f" interval {interval}" if interval else "")
        with progress_bar(total=total, done=progress.step, description=name, unit="step", show=self.ranks.first) as bar:
            for batch in batches:
                self.bad.note(batch)
                losses = self._step(batch)
                if log is not None:
                    rates = {f"learning_rate/{i}": g["lr"] for i, g in enumerate(stage.optimizer.param_groups)}
                    log.scalars(progress.iteration, {f"train/{k}": v for k, v in losses.items()} | rates)
                bar.set_postfix_str(f"loss {losses['total']:.4f}", refresh=False)
                bar.update()
                if options.save_every and progress.iteration % options.save_every == 0:
                    self._save(None, improved=False)
                self._stop_if_asked()
                if progress.step >= total:
                    break

    def _step(self, batch: Mapping) -> dict[str, float]:
        options, progress, stage = self.options, self.progress, self.stage
        seed = (options.seed, progress.epoch, progress.pass_index, progress.step)
        losses = stage.loss(batch, seed)
        values = dict(zip(losses, torch.stack([x.detach() for x in losses.values()]).tolist()))
        if any_rank(not math.isfinite(values["total"]), self.device):
            self._refuse_loss(values, batch)
        stage.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses["total"]).backward()
        self.scaler.step(stage.optimizer)
        self.scaler.update()
        stage.scheduler.step()
        progress.step += 1
        progress.iteration += 1
        return values

    def _refuse_loss(self, values: dict[str, float], batch: Mapping) -> None:
        """Stop before the optimizer spreads a loss that is no number; keep what is needed to look into it."""
        names = ", ".join(batch["name"])
        path = self.folder / f"non_finite_rank_{self.ranks.rank}.pth.tar"
        save_checkpoint(path, {"losses": values, "batch": dict(batch), **self._content(None)})
        raise UserError(
            f"the loss became {values['total']} in epoch {self.progress.epoch + 1}, step {self.progress.step + 1}, on the "
            f"frames {names}; weights and batch are in {path}; a lower learning rate is the usual remedy"
        )

    def _report(self, metrics: dict, improved: bool, log: RunLog) -> None:
        progress = self.progress
        if "positions" in metrics:
            lines = [*positions_table(metrics).console()[1:], *averages(metrics)]
            values = {f"val/miou_position_{row['position']}": row["miou"] for row in metrics["positions"]}
            values |= {f"val/{key}": metrics[key] for key in ("avg_miou", "pooled_miou", "min_miou")}
            values = {tag: value for tag, value in values.items() if value is not None}
        else:
            lines = [f"{key.replace('_', ' ')}: {value:.4f} grid pixels" for key, value in metrics.items()]
            values = {f"val/{key}": value for key, value in metrics.items()}
        logger.info("epoch %d%s", progress.epoch, " (best so far)" if improved else "")
        for line in lines:
            logger.info("  %s", line)
        log.scalars(progress.iteration, values)
        write_json(self.folder / "metrics.json", metrics)
        if self.options.metrics_file:
            write_json(Path(self.options.metrics_file), metrics)
        picture = self.stage.picture()
        if picture is not None:
            log.image(progress.iteration, "val/overlay", picture)

    def _save(self, score: float | None, improved: bool) -> None:
        self.random_states = from_all_ranks(random_state())
        self.passed_over = sum(from_all_ranks(self.bad.counts), Counter())
        if not self.ranks.first:
            return
        if self.passed_over:
            write_list(self.folder, self.passed_over)
        content = self._content(score)
        save_checkpoint(self.folder / LATEST, content, previous=self.folder / PREVIOUS)
        if improved:
            save_checkpoint(self.folder / BEST, content)

    def _content(self, score: float | None) -> dict:
        """Everything that a later run needs to go on as if this one had not stopped.

        Sampling and augmentation are drawn from the seed and the place in training alone, so the place is their state.
        """
        progress, stage = self.progress, self.stage
        best = progress.best if math.isfinite(progress.best) else 0.0
        return {
            "epoch": progress.epoch,
            **stage.state(),
            "optimizer": stage.optimizer.state_dict(),
            "best_pred": best,
            "current_pred": score if score is not None else 0.0,
            "test_best_pred": best,
            "current_test_pred": score if score is not None else 0.0,
            "args": dataclasses.asdict(self.options),
            "scheduler": stage.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": dataclasses.asdict(progress),
            "random_state": self.random_states,
            "bad_samples": dict(self.passed_over),
        }

    def _resume(self, resumed: WeightsFile) -> None:
        """Take up optimizer, schedule and place from the checkpoint, as far as the options ask for it."""
        options, content = self.options, resumed.content
        continued = options.resume == "auto"
        if continued:
            self._folder = resumed.path.parent
        if continued or not options.reset_optimizer:
            self._restore_optimizer(resumed)
        if continued or not options.reset_best_pred:
            try:
                self.progress.best = float(content.get("best_pred", -math.inf))
            except (TypeError, ValueError, RuntimeError) as error:
                raise UserError(f"{resumed.path}: its best_pred is no number; --reset-best-pred 1 forgets it") from error

    def _restore_optimizer(self, resumed: WeightsFile) -> None:
        if "optimizer" not in resumed.content:
            raise UserError(f"{resumed.path}: has no optimizer state; --reset-optimizer 1 starts with a fresh one")
        try:
            self._restore(resumed.content)
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{resumed.path}: its optimizer state does not fit ({error}); --resume {resumed.path} --reset-optimizer 1 takes "
                "its weights alone"
            ) from error

    def _restore(self, content: Mapping) -> None:
        """Optimizer, schedule and place of a checkpoint. What does not fit raises what it happens to raise."""
        optimizer = self.stage.optimizer
        optimizer.load_state_dict(content["optimizer"])
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and (value.shape not in ((), parameter.shape) or not value.isfinite().all()):
                    raise ValueError(f"{name} of {tuple(value.shape)} for a tensor of {tuple(parameter.shape)}, or not finite")
        if "scheduler" in content:
            self.stage.scheduler.load_state_dict(content["scheduler"])
        if content.get("scaler"):
            self.scaler.load_state_dict(content["scaler"])
        if "progress" not in content:
            self.progress.epoch = int(content.get("epoch", 0))
            return
        progress = Progress(**content["progress"])
        if not all(isinstance(value, (int, float)) for value in dataclasses.astuple(progress)):
            raise ValueError("its place in training is not in numbers")
        self.progress = progress
        if self.ranks.first:
            self.bad.counts.update({line: int(times) for line, times in content.get("bad_samples", {}).items()})
        states = content.get("random_state", [])
        if len(states) == self.ranks.count:
            restore_random_state(states[self.ranks.rank])

    def _note_signal(self, number: int, _frame: object) -> None:
        if self.signal:  # asked twice: end at once
            raise KeyboardInterrupt
        self.signal = number
        if self.all_saved:
            raise Stopped(128 + number)

    def _stop_if_asked(self) -> None:
        if any_rank(bool(self.signal), self.device):
            self._save(None, improved=False)
            wait_for_all()
            raise Stopped(128 + (self.signal or signal.SIGTERM))
