"""Callbacks that the tests put into a training."""

import functools
import math
import os
import signal

import torch
from lightning.pytorch.callbacks import Callback

from steadyflow.training.run import CHECKPOINT


class Losses(Callback):
    """Notes the loss of every step."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, training, *_):
        self.losses.append(training.loss)


class Signal(Callback):
    """Sends this process a signal after a step."""

    def __init__(self, step, number=signal.SIGINT):
        self.step, self.number = step, number

    def on_train_batch_end(self, trainer, training, *_):
        if training.step == self.step:
            os.kill(os.getpid(), self.number)


class Spoil(Callback):
    """Makes the loss of some steps not finite."""

    def __init__(self, steps, value=torch.nan):
        self.steps, self.value = steps, value

    def on_train_start(self, trainer, training):
        self.loss = training.model.loss

    def on_train_batch_start(self, trainer, training, *_):
        factor = self.value if training.step in self.steps else 1.0
        training._losses = [lambda x, y: self.loss(x, y) * factor]


class Crash(Callback):
    """Breaks off after a step, like a killed process."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, training, *_):
        if training.step == self.step:
            raise RuntimeError("the power is out")


class Save(Callback):
    """Saves the run's checkpoint after a step."""

    def __init__(self, step, run):
        self.step, self.run = step, run

    def on_train_batch_end(self, trainer, training, *_):
        if training.step == self.step:
            trainer.save_checkpoint(self.run / CHECKPOINT)


class Kill(Callback):
    """Kills the second process after a step, without a chance to say so."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, training, *_):
        if training.step == self.step and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Still(Callback):
    """Dequantises with the middle of each bin, since processes draw their own noise."""

    def on_train_start(self, trainer, training):
        noise = training.model.flow.dequantization
        noise.forward = functools.partial(middle, noise.levels)


def middle(levels, x, context=None):
    """The middle of each pixel's bin, and the log-determinant."""
    return (x + 0.5) / levels, -x.shape[1:].numel() * math.log(levels)
