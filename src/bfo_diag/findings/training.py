"""Exceptions that torch raises in a training and whose text does not name the mend; `recognised` knows them."""

from bfo_diag.findings import Entry
from bfo_diag.records import Severity

_ERROR = Severity.ERROR
_GENERATED = "https://pytorch.org/docs/stable/generated/"
_AUTOGRAD = "https://pytorch.org/docs/stable/notes/autograd.html"

ENTRIES = (
    Entry(
        "BACKWARD-NO-GRAPH",
        _ERROR,
        why="backward() was called on a loss to which no graph leads: all parameters are frozen, a detach(), item() "
        "or no_grad() lies between, or the optimizer evaluates its closure with gradients disabled.",
        fix="bfo-diag gradients on the step names the line that cuts the graph; in a closure for a gradient-free "
        "optimizer, return the loss and leave backward() out",
        url=_AUTOGRAD + "#setting-requires-grad",
    ),
    Entry(
        "BACKWARD-TWICE",
        _ERROR,
        why="The graph was freed by a backward pass before this one: a loss was kept from an earlier call, or a hidden "
        "state, a running sum or a buffer carries the graph of the last step along.",
        fix="compute the loss anew in each step and in each call of a closure; detach() what is carried from step to "
        "step. retain_graph=True only if one graph is really gone back through twice",
        url=_GENERATED + "torch.Tensor.backward.html",
    ),
    Entry(
        "BACKWARD-INPLACE",
        _ERROR,
        why="Between forward pass and backward() something wrote into a tensor that the derivative needs: x += ..., "
        "relu_, or an optimizer.step() that moved the weights in between (two losses, two optimizers).",
        fix="write x = x + ..., and run every backward pass before the first optimizer.step(), or the forward pass "
        "again after it; torch.autograd.set_detect_anomaly(True) shows the forward line",
        url=_AUTOGRAD + "#in-place-operations-with-autograd",
    ),
    Entry(
        "LEAF-INPLACE",
        _ERROR,
        why="A parameter is written into while gradients are recorded: autograd could not go back through it.",
        fix="write under torch.no_grad(): with torch.no_grad(): weight.copy_(...); torch.nn.init does so",
        url=_AUTOGRAD + "#in-place-operations-with-autograd",
    ),
    Entry(
        "LOSS-NOT-SCALAR",
        _ERROR,
        why="backward() starts from one number, and the loss holds several: reduction='none', or a loss per sample or "
        "per device (DataParallel).",
        fix="reduce it: loss.mean().backward(), and return that from the closure",
        url=_GENERATED + "torch.Tensor.backward.html",
    ),
    Entry(
        "LABEL-OUT-OF-RANGE",
        _ERROR,
        why="A class label is not below the number of outputs: labels begin at 1, more classes in the data than in the "
        "last layer, or -1 for what is to be ignored.",
        fix="let labels run from 0 to classes - 1, widen the last layer, or pass ignore_index; on a GPU the same fault "
        "is «device-side assert triggered»",
        url=_GENERATED + "torch.nn.CrossEntropyLoss.html",
    ),
    Entry(
        "EMBEDDING-OUT-OF-RANGE",
        _ERROR,
        why="An index is not below num_embeddings: a token added after the model was made, a position beyond the "
        "longest sequence, or an index of -1.",
        fix="print the largest and smallest index beside num_embeddings; resize the embedding "
        "(resize_token_embeddings), or cut the sequences",
        url=_GENERATED + "torch.nn.Embedding.html",
    ),
    Entry(
        "LABEL-DTYPE",
        _ERROR,
        why="Class labels are integers of 64 bits for this loss, and these are not.",
        fix="labels.long() for class indices; probabilities need the shape of the outputs",
        url=_GENERATED + "torch.nn.CrossEntropyLoss.html",
    ),
    Entry(
        "DATA-FLOAT64",
        _ERROR,
        why="The data are float64 and the weights float32: NumPy and pandas give float64 unless they are told.",
        fix="convert where the tensor is made: torch.from_numpy(array).float(), or "
        "torch.as_tensor(array, dtype=torch.float32)",
        url="https://pytorch.org/docs/stable/tensor_attributes.html#torch.dtype",
    ),
    Entry(
        "BATCHNORM-ONE-VALUE",
        _ERROR,
        why="BatchNorm has one value per channel to normalise in training: mostly the last batch of an epoch, with one "
        "sample in it.",
        fix="DataLoader(drop_last=True), or another batch size; model.eval() where nothing is trained",
        url=_GENERATED + "torch.nn.BatchNorm1d.html",
    ),
    Entry(
        "OPTIMIZER-NOT-A-LEAF",
        _ERROR,
        why="The optimizer was given the result of an operation, which holds no gradient and would move nothing: "
        "parameter.to(device), parameter * scale, a slice.",
        fix="make the tensor where it is to live, then call requires_grad_(); model.to(device) before the optimizer",
        url="https://pytorch.org/docs/stable/optim.html#constructing-it",
    ),
    Entry(
        "OPTIMIZER-NO-PARAMETERS",
        _ERROR,
        why="The optimizer got nothing to optimize: layers in a plain list or dict are not registered, a filter let "
        "none through, or a generator of parameters was used up before.",
        fix="hold layers in nn.ModuleList or nn.ModuleDict; call model.parameters() anew for each optimizer",
        url=_GENERATED + "torch.nn.ModuleList.html",
    ),
    Entry(
        "OPTIMIZER-STATE-MISMATCH",
        _ERROR,
        why="The saved optimizer held another number of parameters or groups than this one: layers were frozen, added "
        "or grouped otherwise when it was saved.",
        fix="build model and groups exactly as they were, load, then change them; or begin with a fresh optimizer",
        url=_GENERATED + "torch.optim.Optimizer.load_state_dict.html",
    ),
    Entry(
        "STATE-DICT-PREFIX",
        _ERROR,
        why="The names differ by a prefix alone: a wrapper was around the model when it was saved, or is now "
        "(_orig_mod. of torch.compile, module. of DistributedDataParallel and DataParallel).",
        fix="save and load the model inside: model.module, or model._orig_mod; module.compile() in place of "
        "torch.compile(module) keeps the names. Or cut the prefix: "
        "torch.nn.modules.utils.consume_prefix_in_state_dict_if_present",
        url="https://pytorch.org/tutorials/beginner/saving_loading_models.html",
    ),
)
