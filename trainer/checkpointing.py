"""What a training run saves and restores: networks, optimizer, schedule, place in training, scores, skipped samples."""
import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from config.errors import UserError
from config.options import Options, recorded
from trainer.bad_samples import BadSamples, write_list
from trainer.stages.training_stage import Stage
from utils.checkpoint import WeightsFile, save_checkpoint
from utils.distributed import Ranks, from_all_ranks
from utils.logging import logger
from utils.run_folder import BEST, LATEST, PREVIOUS


@dataclass
class Progress:
    """The place in training: next comes step `step` of pass `pass_index` of epoch `epoch`, all counted from 0."""

    epoch: int = 0
    pass_index: int = 0
    step: int = 0
    iteration: int = 0  # optimizer steps taken
    best: float | None = None  # score, if there is one yet


class Checkpoints:
    """Saves a run; restores one from `resumed`, as far as the options ask for it. Raises UserError if that fails."""

    def __init__(
        self, options: Options, ranks: Ranks, stage: Stage, scaler: torch.amp.GradScaler, resumed: WeightsFile | None
    ):
        self.options, self.ranks, self.stage, self.scaler = options, ranks, stage, scaler
        self.progress = Progress()
        self.bad = BadSamples()  # of this rank; and of all ranks, as of the last save:
        self.skipped: Counter[str] = Counter()
        if resumed is not None:
            self._restore(resumed)
        self.random_states = [random_state()]  # of all ranks, as of the last save

    def save(self, folder: Path, score: float = 0.0, *, improved: bool = False) -> None:
        """Write the latest checkpoint, and the best where `improved`; all ranks call it. Raises UserError."""
        self.random_states = from_all_ranks(random_state())
        self.skipped = sum(from_all_ranks(self.bad), Counter())
        if not self.ranks.first:
            return
        if self.skipped:
            write_list(folder, self.skipped)
        content = self.content(score)
        for name, x in {**content.get("state_dict", {}), **content.get("state_dict_of", {})}.items():
            if not bool(x.isfinite().all()):
                raise UserError(
                    f"{folder}: {name} became NaN or infinite before step {self.progress.iteration + 1}, so nothing is "
                    "saved; lower the learning rates, and continue with --resume auto or start again"
                )
        save_checkpoint(folder / LATEST, content, previous=folder / PREVIOUS)
        if improved:
            save_checkpoint(folder / BEST, content)

    def content(self, score: float = 0.0) -> dict:
        """Everything that a later run needs to continue as if this one had not stopped.

        Sampling and augmentation depend on the seed and the place in training alone, so the place is their state.
        """
        progress, stage = self.progress, self.stage
        best = progress.best or 0.0  # the released program expects a number
        return {
            "epoch": progress.epoch, **stage.state(), "optimizer": stage.optimizer.state_dict(),
            "best_pred": best, "test_best_pred": best, "current_pred": score, "current_test_pred": score,
            "args": recorded(self.options), "samples": self._samples(),
            "scheduler": stage.scheduler.state_dict(), "scaler": self.scaler.state_dict(),
            "progress": dataclasses.asdict(progress), "random_state": self.random_states,
            "bad_samples": dict(self.skipped),
        }

    def _samples(self) -> dict[str, int]:
        """The number of training samples by interval, on which the place in an epoch depends."""
        return {str(interval): len(samples) for interval, samples in self.stage.passes.items()}

    def _restore(self, file: WeightsFile) -> None:
        options, path = self.options, file.path
        if options.resume == "auto" or not options.reset_optimizer:
            try:
                self._restore_optimizer(file.content)
                self._restore_place(file.content)
            except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
                raise UserError(
                    f"{path}: its optimizer state does not fit ({error}); use --resume {path} --reset-optimizer 1 to "
                    "load its weights alone"
                ) from error
        if options.resume == "auto" or not options.reset_best_pred:
            try:
                place, released = file.content.get("progress"), float(file.content.get("best_pred", 0.0))
                best = place.get("best") if place is not None else released
                self.progress.best = float(best) if best is not None and math.isfinite(best) else None
            except (TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise UserError(f"{path}: best_pred is not a number; use --reset-best-pred 1 to ignore it") from error

    def _restore_optimizer(self, content: Mapping) -> None:
        """Optimizer, schedule and scaler. What does not fit raises any of several kinds of error."""
        if "optimizer" not in content:
            raise ValueError("there is none")
        optimizer = self.stage.optimizer
        rates = [(group["initial_lr"], group["weight_decay"]) for group in optimizer.param_groups]
        optimizer.load_state_dict(content["optimizer"])
        for parameter, state in optimizer.state.items():
            for name, x in state.items():
                if isinstance(x, torch.Tensor) and (x.shape not in ((), parameter.shape) or not x.isfinite().all()):
                    raise ValueError(f"{name} {tuple(x.shape)} of a tensor {tuple(parameter.shape)}, or not finite")
        if "scheduler" in content:
            self.stage.scheduler.load_state_dict(content["scheduler"])
        if content.get("scaler"):
            self.scaler.load_state_dict(content["scaler"])
        given = {"lr", "guide_lr", "optical_flow_lr", "weight_decay", "lr_gamma"} & {*self.options.given}
        if given or self.options.resume == "auto":  # whose options are all the run's where they are not given
            self._change_rates(rates)

    def _change_rates(self, rates: Sequence[tuple[float, float]]) -> None:
        """Continue the schedule with other learning rates and weight decays, by group as of the schedule's start."""
        for group, (rate, decay) in zip(self.stage.optimizer.param_groups, rates):
            group["lr"] *= rate / group.get("initial_lr", group["lr"])
            group["initial_lr"], group["weight_decay"] = rate, decay
        self.stage.scheduler.base_lrs = [rate for rate, _ in rates]
        if isinstance(self.stage.scheduler, torch.optim.lr_scheduler.StepLR):
            self.stage.scheduler.gamma = self.options.lr_gamma

    def _restore_place(self, content: Mapping) -> None:
        """Place in training, skipped samples and random states; of a released file, the epoch."""
        if "progress" not in content:
            self.progress.epoch = int(content.get("epoch", 0))
            return
        progress = Progress(**content["progress"])
        if not all(isinstance(value, (int, float, type(None))) for value in dataclasses.astuple(progress)):
            raise ValueError("its place in training is not numeric")
        if content.get("samples", self._samples()) != self._samples():
            logger.info("other training samples than in this run before; epoch %d begins anew", progress.epoch + 1)
            progress.pass_index = progress.step = 0
        self.progress = progress
        if self.ranks.first:
            self.bad.update({line: int(times) for line, times in content.get("bad_samples", {}).items()})
        states = content.get("random_state", [])
        if len(states) == self.ranks.count:
            state = states[self.ranks.rank]
            torch.set_rng_state(state["cpu"])
            if state["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda"])


def random_state() -> dict:
    """State of torch's generators in this process, as tensors."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
