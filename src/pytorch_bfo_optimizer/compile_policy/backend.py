"""The backend that torch.compile is given: it hands each graph to the real one, counts its runs, and catches it.

Where the real backend fails, the graph runs as dynamo captured it, operation by operation, with the numbers of eager.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytorch_bfo_optimizer.compile_policy.calls import described, running
from pytorch_bfo_optimizer.compile_policy.trial import TrialError, can_be_tried, try_on_copies
from pytorch_bfo_optimizer.errors import CompileFailedError, HyperparameterError

Graph = Callable[..., Any]
Compiler = Callable[..., Graph]

TRIED_SIZES = 8
"""A graph of dynamic shapes is tried on copies for each new size, so many times; later sizes run at once."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """What decides which code a backend makes; targets of equal settings share what dynamo has compiled."""

    backend: str | Compiler
    mode: str
    options: Mapping[str, Any] | None
    dynamic: bool | None
    raises: bool
    """Whether a failure is raised, in place of the graph run in eager."""

    def compiler(self) -> Compiler:
        """Return the real backend, as torch.compile would set it up.

        Raises:
            HyperparameterError: torch knows no such mode or option.
            Exception: what torch raises for a backend that it can't find.
        """
        if self.backend != "inductor":
            from torch._dynamo.backends.registry import lookup_backend

            keywords: dict[str, Any] = {"options": dict(self.options)} if self.options else {}
            if self.mode != "default":
                keywords["mode"] = self.mode
            found = lookup_backend(self.backend)
            return (lambda gm, inputs: found(gm, inputs, **keywords)) if keywords else found
        import torch._inductor as inductor

        try:
            options = dict(self.options or inductor.list_mode_options(self.mode, self.dynamic))
        except (RuntimeError, KeyError) as error:  # the second from torch 2.6
            raise HyperparameterError(f"mode is {self.mode!r}, which torch.compile does not know: {error}") from error
        unknown = sorted({name.replace("-", "_") for name in options} - set(inductor.list_options()))
        if unknown:
            raise HyperparameterError(
                f"options name {', '.join(unknown)}, which Inductor does not know: torch._inductor.list_options() "
                "lists what it knows"
            )
        return lambda gm, inputs: inductor.compile(gm, inputs, options=options)


class WatchedBackend:
    """What `torch.compile(backend=)` is given.

    It has the name of the real backend, so that torch treats it alike, and equals another of the same settings: to
    dynamo they are one, and a second model of the same shapes (the next fold) runs what the first compiled.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.settings = settings
        self.__name__ = settings.backend if isinstance(settings.backend, str) else "watched"
        self._compiler = settings.compiler()

    def __call__(self, gm: torch.fx.GraphModule, inputs: Sequence[Any]) -> Graph:
        """Compile one graph; see the module's docstring."""
        eager = _as_captured(gm)  # before a backend's passes rewrite the graph in place
        places = _Places.of(gm, inputs)
        try:
            compiled: Graph | None = self._compiler(gm, inputs)
        except _for_dynamo():
            raise
        except Exception as error:  # whatever a backend raises is the reason that is recorded
            if self.settings.raises:
                raise
            _record("compile", error, places.shapes(inputs))
            compiled = None
        return _WatchedGraph(next(_numbers), compiled, eager, places, self.settings.raises).run

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WatchedBackend) and self.settings == other.settings

    def __hash__(self) -> int:
        return hash((self.settings.backend, self.settings.mode, self.settings.dynamic, self.settings.raises))

    def reset(self) -> None:
        """Forget recorded CUDA graphs; `torch.compiler.reset` calls it (of itself, newer versions do that too)."""
        if torch.cuda.is_available():
            from torch._inductor.cudagraph_trees import reset_cudagraph_trees

            reset_cudagraph_trees()


@dataclass(frozen=True, slots=True)
class _Places:
    """Which inputs of a graph are what."""

    sizes: tuple[int, ...]
    """Sizes, of dynamic shapes."""
    data: tuple[int, ...]
    """Neither sizes nor parameters nor buffers, by the names that dynamo gives them."""

    @classmethod
    def of(cls, gm: torch.fx.GraphModule, inputs: Sequence[Any]) -> _Places:
        names = [node.name for node in gm.graph.nodes if node.op == "placeholder"]
        sizes = tuple(place for place, given in enumerate(inputs) if isinstance(given, torch.SymInt))
        state = {place for place, name in enumerate(names) if "_parameters_" in name or "_buffers_" in name}
        return cls(sizes, tuple(place for place in range(len(inputs)) if place not in {*sizes, *state}))

    def shapes(self, inputs: Sequence[Any]) -> tuple[str, ...]:
        """Return the shapes of the data, such as `float32[5, 4]`."""
        tensors = [inputs[place] for place in self.data if isinstance(inputs[place], torch.Tensor)]
        return tuple(f"{str(given.dtype).removeprefix('torch.')}{list(given.shape)}" for given in tensors)


@dataclass(slots=True)
class _WatchedGraph:
    number: int
    compiled: Graph | None
    eager: Graph
    places: _Places
    raises: bool
    tried: set[tuple[int, ...]] = field(default_factory=set)

    def run(self, *args: Any) -> Any:
        if self.compiled is None:
            return self.eager(*args)
        if not self.tried or (self.places.sizes and len(self.tried) < TRIED_SIZES):
            key = tuple(args[place] for place in self.places.sizes)
            if key not in self.tried:
                self.tried.add(key)
                if not self._holds(args):
                    return self.eager(*args)
        call = running.call
        if call is None:
            return self.compiled(*args)
        call.graphs.append(self.number)
        outputs = self.compiled(*args)
        if call.on_backward is not None:
            call.watch_backward(outputs)
        return outputs

    def _holds(self, args: Sequence[Any]) -> bool:
        """Whether the graph runs on copies, or nothing can be said; if not, it is given up for good."""
        assert self.compiled is not None
        module = self.eager.__self__  # type: ignore[attr-defined]  # it is the forward of one
        held = (*module.parameters(), *module.buffers())
        if not can_be_tried((*args, *held)) or _has_collectives(module.graph):
            return True
        try:
            try_on_copies(self.compiled, args, held)
        except TrialError as failed:
            error = failed.__cause__
            assert isinstance(error, Exception)
            if isinstance(error, torch.OutOfMemoryError):
                return True  # the copies were too much, which tells nothing of the graph
            if self.raises:
                raise CompileFailedError(
                    f"the {failed.where} of a compiled graph failed on copies of its inputs: {described(error)}"
                ) from error
            _record(failed.where, error, self.places.shapes(args))
            self.compiled = None
        return self.compiled is not None


def _record(where: str, error: Exception, shapes: tuple[str, ...]) -> None:
    if running.call is not None:
        running.call.fallbacks.append((where, error, shapes))


def _as_captured(gm: torch.fx.GraphModule) -> Graph:
    """Return the graph as a function of its own, which keeps nothing of the compiler's (example inputs) alive."""
    graph = torch.fx.Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    for node in graph.nodes:
        node.meta = {}
    twin: Graph = torch.fx.GraphModule(gm, graph).forward
    return twin


def _has_collectives(graph: torch.fx.Graph) -> bool:
    """Whether the graph talks to other processes, which would have to run it twice as well."""
    return any("c10d" in str(node.target) for node in graph.nodes)


def _for_dynamo() -> tuple[type[BaseException], ...]:
    """What a backend raises to tell dynamo something: to trace anew, to break the graph, to skip the frame."""
    from torch._dynamo import exc

    names = ("RestartAnalysis", "SkipFrame", "TensorifyScalarRestartAnalysis")
    kinds = tuple(kind for kind in (getattr(exc, name, None) for name in names) if kind is not None)
    return (*kinds, *getattr(exc, "exceptions_allowed_to_be_fallback", ()))
