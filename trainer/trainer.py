"""The training loop of all stages: builds, loops over epochs and passes, logs, saves. Checkpoints: checkpointing.py."""
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from config.datasets import UNLABELLED
from config.errors import UserError
from config.options import Options
from dataloaders.loaders import TrainingLoader
from evaluation.command import run_evaluation
from evaluation.metrics_json import Metrics
from models.load import read_resumed
from trainer.bad_samples import LISTED
from trainer.checkpointing import Checkpoints
from trainer.precision import with_measured_amp
from trainer.stages import report_of, score_of, stage_of
from trainer.stages.flow_network import FlowErrors
from utils.checkpoint import save_checkpoint
from utils.distributed import Ranks, any_rank, from_all_ranks, wait_for_all
from utils.files import check_writable, write_json
from utils.interrupts import Interrupt, Stopped
from utils.logging import RunLog, logger, progress_bar
from utils.run_folder import BEST, claim, claim_experiment, latest_experiment, write_parameters

DRY_RUN_STEPS = 5


class Trainer:
    """Trains or evaluates as the options ask: `train()`, `evaluate()`."""

    def __init__(self, options: Options, device: torch.device, ranks: Ranks):
        self.options, self.device, self.ranks = options, device, ranks

    def evaluate(self) -> Metrics:
        """Evaluate on the val split. Raises UserError."""
        return run_evaluation(self.options, self.device, self.ranks)

    def _build(self) -> None:
        """Data, networks, optimizer, loader; all of it restored where the options resume a run."""
        ranks = self.ranks
        options = self.options = with_measured_amp(self.options, self.device)
        if options.batch_size % ranks.count:
            split = f"--batch-size {options.batch_size} cannot be split over {ranks.count} processes"
            raise UserError(f"{split}; choose a multiple of {ranks.count}")
        torch.manual_seed(options.seed)
        np.random.seed(options.seed)
        continued = latest_experiment(options) if options.resume == "auto" else None
        # The first rank claims a run's folder before its checkpoint is read: no other process may write a newer one.
        self.lock = claim(continued) if continued is not None and ranks.first else None
        wait_for_all()
        resumed = read_resumed(options)
        self.stage = stage_of(options)(options, self.device, ranks, resumed)
        for interval, samples in self.stage.passes.items():
            if len(samples) < ranks.count:
                kind = f"clips of interval {interval}" if interval else "labelled frames"
                found = f"{options.data_path}: {len(samples)} {kind} to train on"
                raise UserError(f"{found}, fewer than {ranks.count} processes; add data, or start fewer processes")
        # Half precision loses small gradients unless the loss is scaled up; the scaler finds by how much.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.amp == "fp16")
        self.loader = TrainingLoader(
            self.stage.passes, batch=options.batch_size, workers=options.num_worker, rank=ranks.rank, ranks=ranks.count,
            skip_bad=options.on_bad_sample == "skip", mixed=options.use_crop and options.stage != "flow",
        )
        self.checkpoints = Checkpoints(options, ranks, self.stage, self.scaler, resumed)
        self.progress = self.checkpoints.progress
        self.interrupt = Interrupt()

    def train(self) -> Path:
        """Train the stage that the options name, to its last epoch; returns the run folder.

        Raises UserError, and Stopped after a signal.
        """
        self._build()
        options, progress = self.options, self.progress
        if self.ranks.first:
            if options.metrics_file:
                check_writable(Path(options.metrics_file), "--metrics-file")
            if self.lock is None:
                self.lock = claim_experiment(options)
            else:
                write_parameters(self.lock.folder, options)
            logger.info("run folder: %s", self.lock.folder)
            if progress.epoch >= options.epoch:
                logger.info("all %d epochs are done already; --epoch N continues to N", progress.epoch)
        self.folder: Path = from_all_ranks(self.lock and self.lock.folder)[0]
        with ExitStack() as stack:
            if self.lock is not None:
                stack.callback(self.lock.release)
            stack.enter_context(self.interrupt)
            log = stack.enter_context(RunLog(self.folder, after=progress.iteration)) if self.ranks.first else None
            while progress.epoch < options.epoch:
                self._epoch(log)
            wait_for_all()
            if options.dataset == UNLABELLED and self.stage.evaluation is not None:
                self.interrupt.all_saved = True
                best = replace(options, evaluate=True, engine="auto", precision="fp32", resume=str(self.folder / BEST))
                run_evaluation(best, self.device, self.ranks, self.folder)
        skipped = self.checkpoints.skipped
        if skipped and self.ranks.first:
            counts = skipped.total(), len(skipped), self.folder / LISTED
            logger.warning("%d times another sample replaced one of %d unreadable samples: %s", *counts)
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
        # Without evaluation the newest weights count as the best.
        improved = progress.best is None or (score is not None and score > progress.best)
        if score is not None and improved:
            progress.best = score
        self.checkpoints.save(self.folder, score or 0.0, improved=improved)
        if metrics is not None and log is not None:
            self._report(metrics, improved, log)

    def _evaluate(self) -> Metrics | FlowErrors | None:
        """Evaluate, which may take long: save first, so that a signal can stop it at once."""
        self.checkpoints.save(self.folder)
        self._stop_if_asked()
        self.interrupt.all_saved = True
        try:
            return self.stage.evaluate()
        finally:
            self.interrupt.all_saved = False

    def _pass(self, interval: int, log: RunLog | None) -> None:
        """One pass over the clips of one interval, from `progress.step` on."""
        options, progress, stage = self.options, self.progress, self.stage
        seed = (options.seed, progress.epoch, progress.pass_index)
        left, batches = self.loader.start(interval, seed=seed, skip=progress.step)
        total = min(progress.step + left, DRY_RUN_STEPS) if options.early_stop else progress.step + left
        if total <= progress.step:
            return
        stage.train_mode()
        name = f"epoch {progress.epoch + 1}/{options.epoch}" + (f" interval {interval}" if interval else "")
        with progress_bar(total=total, done=progress.step, description=name, unit="step", show=self.ranks.first) as bar:
            for batch in batches:
                self.checkpoints.bad.note(batch)
                losses = self._step(batch)
                if log is not None:
                    rates = {f"learning_rate/{i}": g["lr"] for i, g in enumerate(stage.optimizer.param_groups)}
                    log.scalars(progress.iteration, {f"train/{k}": v for k, v in losses.items()} | rates)
                bar.set_postfix_str(f"loss {losses['total']:.4f}", refresh=False)
                bar.update()
                if options.save_every and progress.iteration % options.save_every == 0:
                    self.checkpoints.save(self.folder)
                self._stop_if_asked()
                if progress.step >= total:
                    break

    def _step(self, batch: Mapping) -> dict[str, float]:
        options, progress, stage = self.options, self.progress, self.stage
        seed = (options.seed, progress.epoch, progress.pass_index, progress.step)
        losses = stage.loss(batch, seed)
        stage.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses["total"]).backward()
        # The step's one wait for a GPU, when both passes are queued and before the optimizer can spread a NaN.
        values = dict(zip(losses, torch.stack([x.detach() for x in losses.values()]).tolist()))
        if any_rank(not math.isfinite(values["total"]), self.device):
            self._fail_on_loss(values, batch)
        self.scaler.step(stage.optimizer)
        self.scaler.update()
        stage.scheduler.step()
        progress.step += 1
        progress.iteration += 1
        return values

    def _fail_on_loss(self, values: dict[str, float], batch: Mapping) -> None:
        """Raise UserError for a NaN or infinite loss before the optimizer spreads it; save weights and batch."""
        path = self.folder / f"non_finite_rank_{self.ranks.rank}.pth.tar"
        save_checkpoint(path, {"losses": values, "batch": dict(batch), **self.checkpoints.content()})
        raise UserError(
            f"the loss became {values['total']} in epoch {self.progress.epoch + 1}, step {self.progress.step + 1}, on "
            f"the frames {', '.join(batch['name'])}; lower the learning rate (--lr); weights and batch: {path}"
        )

    def _report(self, metrics: Metrics | FlowErrors, improved: bool, log: RunLog) -> None:
        """Log the metrics of an epoch and write them to metrics.json."""
        lines, values = report_of(metrics)
        logger.info("epoch %d%s", self.progress.epoch, " (best so far)" if improved else "")
        for line in lines:
            logger.info("  %s", line)
        log.scalars(self.progress.iteration, {f"val/{name}": value for name, value in values.items()})
        write_json(self.folder / "metrics.json", metrics.to_json())
        if self.options.metrics_file:
            write_json(Path(self.options.metrics_file), metrics.to_json())
        picture = self.stage.picture()
        if picture is not None:
            log.image(self.progress.iteration, "val/overlay", picture)

    def _stop_if_asked(self) -> None:
        """Save and raise Stopped where any rank has received a signal."""
        if any_rank(bool(self.interrupt.number), self.device):
            self.checkpoints.save(self.folder)
            wait_for_all()
            raise Stopped(self.interrupt.status or 143)  # 143: another rank received it
