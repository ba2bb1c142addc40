"""What goes wrong where an optimizer meets a training framework: a named exception, or a closure that misleads."""

from bfo_diag.findings import Entry
from bfo_diag.records import Severity

_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
_GENERATED = "https://pytorch.org/docs/stable/generated/"
_NOTES = "https://pytorch.org/docs/stable/notes/"

ENTRIES = (
    # Exceptions, as `recognised` knows them.
    Entry(
        "OPTIMIZER-NEEDS-CLOSURE",
        _ERROR,
        why="The optimizer evaluates the loss itself, and step() was called without a closure that it could call: "
        "Trainers and plain loops call optimizer.step() bare, after a backward pass of their own.",
        fix="call optimizer.step(closure) with a closure that returns the loss; in a framework its adapter does so: "
        "adapters.transformers.BFOTrainer (or prepare(trainer)), adapters.lightning.BFOTraining, "
        "adapters.fastai.BFOCallback, all in pytorch_bfo_optimizer",
        url=_GENERATED + "torch.optim.Optimizer.step.html",
    ),
    Entry(
        "AMP-SCALER-CLOSURE",
        _ERROR,
        why="GradScaler.step unscales the gradients and then calls optimizer.step() once: it takes no closure, and an "
        "optimizer that needs one gets none.",
        fix="call optimizer.step(closure) in place of scaler.step and scaler.update, with a closure that returns the "
        "unscaled loss, computed under torch.autocast: bfloat16 needs no scaler; for float16, "
        "pytorch_bfo_optimizer.scaled(closure, scaler, optimizer), whose closure does not call backward()",
        url=_NOTES + "amp_examples.html",
    ),
    Entry(
        "AMP-NO-GRADIENT",
        _ERROR,
        why="GradScaler.step found no gradient in any parameter of the optimizer: backward() was not run on the scaled "
        "loss, the gradients were cleared, or an optimizer without gradients was given to it.",
        fix="call scaler.scale(loss).backward() before scaler.step(optimizer), and zero_grad() after it; a "
        "gradient-free optimizer is stepped without the scaler",
        url=_NOTES + "amp_examples.html",
    ),
    Entry(
        "AMP-UPDATE-FORGOTTEN",
        _ERROR,
        why="A GradScaler unscales and steps each optimizer once between two calls of update().",
        fix="call scaler.update() once after each round of scaler.step(), also where gradients are accumulated; "
        "unscale_ an optimizer once, before clipping",
        url=_NOTES + "amp_examples.html",
    ),
    Entry(
        "AMP-HALF-WEIGHTS",
        _ERROR,
        why="The weights themselves are float16 (model.half(), torch_dtype=float16), and a GradScaler works on float32 "
        "weights whose forward pass autocast lowers.",
        fix="keep the weights in float32 and run the forward pass under torch.autocast; or train in bfloat16, without "
        "a scaler",
        url=_NOTES + "amp_examples.html",
    ),
    Entry(
        "LIGHTNING-TRAINER-ARGUMENT",
        _ERROR,
        why="automatic_optimization is an attribute of the LightningModule; the Trainer never took it.",
        fix="write self.automatic_optimization = False in the module's __init__, and drop it from Trainer(...); a "
        "module with pytorch_bfo_optimizer.adapters.lightning.BFOTraining needs neither",
        url="https://lightning.ai/docs/pytorch/stable/model/manual_optimization.html",
    ),
    Entry(
        "LIGHTNING-MANUAL-ONLY",
        _ERROR,
        why="With manual optimization the Trainer neither clips nor accumulates: both belong to the module then.",
        fix="drop the argument from Trainer(...), and clip or accumulate in training_step; with "
        "pytorch_bfo_optimizer.adapters.lightning.BFOTraining set it on the module, by the same name",
        url="https://lightning.ai/docs/pytorch/stable/model/manual_optimization.html",
    ),
    Entry(
        "LIGHTNING-TWO-PACKAGES",
        _ERROR,
        why="lightning and pytorch_lightning are two packages with two LightningModule classes, and neither Trainer "
        "takes what belongs to the other.",
        fix="import module, Trainer and callbacks from one of them: import lightning as L, and L.LightningModule, "
        "L.Trainer",
        url="https://lightning.ai/docs/pytorch/stable/upgrade/migration_guide.html",
    ),
    Entry(
        "SCHEDULER-MOMENTUM",
        _ERROR,
        why="The schedule cycles the momentum against the learning rate, and the optimizer has neither a momentum nor "
        "betas to cycle.",
        fix="pass cycle_momentum=False to OneCycleLR or CyclicLR; in fastai take fit or fit_flat_cos in place of "
        "fit_one_cycle",
        url=_GENERATED + "torch.optim.lr_scheduler.OneCycleLR.html",
    ),
    Entry(
        "SCHEDULER-TOO-MANY-STEPS",
        _ERROR,
        why="OneCycleLR was stepped more often than it was made for: total_steps counts calls of scheduler.step(), not "
        "epochs.",
        fix="set total_steps to epochs * optimizer steps per epoch (batches divided by those accumulated), plus what a "
        "resumed run adds",
        url=_GENERATED + "torch.optim.lr_scheduler.OneCycleLR.html",
    ),
    Entry(
        "SCHEDULER-LAST-EPOCH",
        _ERROR,
        why="last_epoch says that training goes on, and a fresh optimizer has no initial_lr to go on from.",
        fix="make the scheduler without last_epoch, and load its state_dict and the optimizer's",
        url="https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate",
    ),
    Entry(
        "SHARDED-PARAMETERS",
        _ERROR,
        why="FSDP and tensor parallelism leave each process a part of every parameter, and an optimizer that moves all "
        "coordinates at once has to hold them all.",
        fix="keep the parameters whole (no wrapper, or DistributedDataParallel), and share the work with "
        'pytorch_bfo_optimizer.distribute(optimizer, data="own")',
        url="https://pytorch.org/docs/stable/distributed.fsdp.fully_shard.html",
    ),
    Entry(
        "DDP-UNFINISHED-REDUCTION",
        _ERROR,
        why="DistributedDataParallel met a forward pass before the gradients of the one before had all arrived: a part "
        "of the model took no part in the loss.",
        fix="let every parameter take part in the loss, or freeze it; pass find_unused_parameters=True where the part "
        "changes from step to step",
        url=_NOTES + "ddp.html",
    ),
    # What a closure did while its optimizer stepped.
    Entry(
        "CLOSURE-BACKWARD-EACH-TIME",
        _WARNING,
        why="The closure runs backward() for every candidate of a step, and the optimizer uses the losses alone: the "
        "backward passes are most of the step's time, and what they leave in .grad is that of a mixture.",
        fix="return the loss without backward(), or wrap the closure: pytorch_bfo_optimizer.SmartClosure(closure, "
        "parameters); in Lightning, class Net(BFOTraining, L.LightningModule), from "
        "pytorch_bfo_optimizer.adapters.lightning",
    ),
    Entry(
        "CLOSURE-RANDOM",
        _WARNING,
        why="Each candidate drew random numbers of its own (a dropout mask, noise, a shuffled batch), so that luck "
        "decides which of them looks best.",
        fix="hold them for the step: pytorch_bfo_optimizer.steady_step(optimizer, closure, model), and draw the batch "
        "before it, not in the closure; in Lightning, Transformers or fastai the adapter does so (BFOTraining, "
        "BFOTrainer, BFOCallback, in pytorch_bfo_optimizer.adapters)",
    ),
    Entry(
        "CLOSURE-MOVES-BUFFERS",
        _WARNING,
        why="Running statistics moved once for each candidate of the step, most of which were thrown away: what "
        "eval() uses later is not of the weights that were kept.",
        fix="hold them for the step: pytorch_bfo_optimizer.steady_step(optimizer, closure, model); in Lightning, "
        "Transformers or fastai the adapter does so (BFOTraining, BFOTrainer, BFOCallback, in "
        "pytorch_bfo_optimizer.adapters)",
    ),
    Entry(
        "DDP-LOCAL-LOSS",
        _WARNING,
        why="DistributedDataParallel averages gradients, never losses: an optimizer that compares losses decides "
        "otherwise on each rank, and the weights drift apart without an error.",
        fix='pytorch_bfo_optimizer.distribute(optimizer, data="own") before the training; or average the loss in the '
        "closure: torch.distributed.all_reduce(loss), divided by the number of ranks",
    ),
    Entry(
        "ACCUMULATION-LOST",
        _WARNING,
        why="Backward passes before step(closure) add up in .grad, and the step works with what its closure gives: the "
        "micro-batches before count for nothing.",
        fix="one closure for all of them: pytorch_bfo_optimizer.accumulate(closures, weights), where each returns the "
        "mean loss of its micro-batch (bound with functools.partial), undivided and without backward(), and weights "
        "are their samples",
    ),
    # What optimizers did, or did not.
    Entry(
        "OPTIMIZER-NEVER-STEPPED",
        _WARNING,
        why="The gradients are made and cleared, and nobody uses them: optimizer.step() is missing.",
        fix="call optimizer.step() after backward(), and zero_grad() after that",
        url=_GENERATED + "torch.optim.Optimizer.step.html",
    ),
    Entry(
        "OPTIMIZER-LR-ZERO",
        _NOTE,
        why="An optimizer with a learning rate of 0 moves nothing: a warm-up that begins at 0 and is stepped once an "
        "epoch, or a schedule that has ended.",
        fix="look at the scheduler: step a warm-up once a batch, or let it begin above 0",
        url="https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate",
    ),
)
