"""Run by `test_callbacks`: training of 6 epochs, and of 3 that is resumed, end with the same bits."""

import tempfile
from pathlib import Path

import torch
import transformers
from bars import pictures
from trainer_example import Classifier, Pictures

import torchthin
from torchthin.integrations.hf import STATE_FILE, PruneCallback

DATA = Pictures(*pictures(128, seed=0))


class Looker(transformers.TrainerCallback):
    """Looks after every optimizer step whether the masks hold."""

    def __init__(self, pruner: torchthin.Pruner, stop_after: int | None) -> None:
        self.pruner, self.held, self.stop_after = pruner, True, stop_after

    def on_step_end(self, args, state, control, model=None, **_):
        for name, mask in self.pruner.masks.items():
            self.held &= not bool(model.net.get_parameter(name)[~mask].any())
        control.should_training_stop = state.global_step == self.stop_after


def train(folder: str, every: object, stop_after: int | None = None, resume: bool = False, **more: object):
    model = Classifier()
    pruner = torchthin.Pruner(model.net, DATA.images[:2], schedule=torchthin.Schedule(steps=5))
    looker = Looker(pruner, stop_after)
    args = transformers.TrainingArguments(
        folder, num_train_epochs=6, per_device_train_batch_size=32, save_strategy="epoch", report_to=[],
        disable_tqdm=True, use_cpu=True, seed=1, **more,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, args, train_dataset=DATA, callbacks=[PruneCallback(pruner, every=every), looker]
    )
    trainer.train(resume_from_checkpoint=resume)
    return model, pruner, looker


for every in ("epoch", 3):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        whole, straight, looker = train(one, every)
        assert looker.held
        assert straight.finished
        assert straight.sparsity == 0.5
        train(two, every, stop_after=12)
        assert (Path(two) / "checkpoint-12" / STATE_FILE).is_file()
        again, resumed, _ = train(two, every, resume=True)
        assert resumed.steps_done == straight.steps_done
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name
with tempfile.TemporaryDirectory() as folder:
    _, pruner, looker = train(folder, 2, gradient_accumulation_steps=2)
    assert looker.held
    assert pruner.steps_done == 6  # 24 batches, 12 optimizer steps
