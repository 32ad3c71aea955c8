"""What is open in a traced model: widths, removable blocks and bits, and what users fix, narrow or group in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from apq_tune.errors import SpaceError
from apq_tune.inputs.ranges import Finite
from apq_tune.network.coupling import ChannelGroup, Coupling
from apq_tune.network.graph import WEIGHTED, Graph
from apq_tune.network.layer import IMAGE
from apq_tune.network.removable import Removable
from apq_tune.space.device import PresetOrName
from apq_tune.space.device_layers import of_device
from apq_tune.space.device_rules import Ends
from apq_tune.space.gene import Gene, Kind
from apq_tune.space.skeleton import BitChoice, Bits, Channels, Model, SizeChoice
from apq_tune.space.sparsities import Sparsities, SparsityChoice, sparsities

TOGETHER, FULL = "together", "full"
"""Words in ``genes``: one gene for all that a glob names; all channels."""

OF_LAYERS: tuple[Kind, ...] = ("sparsity", "w_bits", "a_bits")
"""Kinds of genes that are about one layer with weights each."""

KEYS: Mapping[str, tuple[Kind, ...]] = {
    "width": ("width",),
    "depth": ("depth",),
    "w_bits": ("w_bits",),
    "a_bits": ("a_bits",),
    "bits": ("w_bits", "a_bits"),
    "sparsity": ("sparsity",),
}
"""Keys of an entry of ``genes``, and the kinds of genes that they are about."""


def _entries(genes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check the form of ``genes``, whose names and values ``Choices`` checks with the model at hand."""
    for glob, entry in genes.items():
        if not isinstance(entry, Mapping) or not entry:
            raise ValueError(f"{glob!r}: {entry!r} is no entry; give a mapping such as {{'w_bits': [8]}}")
        for key, value in entry.items():
            if key not in KEYS:
                raise ValueError(f"{glob!r}: there is no {key!r}; give {', '.join(KEYS)}")
            words = (TOGETHER, FULL) if key == "width" else (TOGETHER,)
            if not (listed := _listed(value)):
                raise ValueError(f"{glob!r}: {key}: has no values; give at least one, or leave {key} out")
            if key == "sparsity":
                _sparsities(f"{glob!r}: {key}", listed)
                continue
            for one in listed:
                if (isinstance(one, bool) or not isinstance(one, int)) and one not in words:
                    said = " or ".join(f"'{word}'" for word in words)
                    raise ValueError(f"{glob!r}: {key}: {value!r} is neither a whole number, a list, nor {said}")
    return {glob: dict(entry) for glob, entry in genes.items()}


def _sparsities(where: str, listed: Sequence[Any]) -> Sparsities | None:
    """Sparsities of an entry of ``genes``; ``None`` if it has only the word ``together``.

    Raises:
        ValueError: If one is not possible.
    """
    given = [one for one in listed if one != TOGETHER]
    if not given:
        return None
    try:
        return sparsities(given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


class Pixels(Model):
    """How the model wants the values of pixels, which are from 0 to 1: less the mean, over the standard deviation.

    Attributes:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """

    mean: tuple[Annotated[float, Finite(-1e3, 1e3)], ...]
    std: tuple[Annotated[float, Finite(0, 1e3, above=True)], ...]


class ModelOptions(Model):
    """Options of the space of a traced model.

    Attributes:
        data: Name of the data set, or folder of images.
        normalisation: Mean and standard deviation of pixels; by default those of the package.
        sizes: Image sizes to choose from; by default that of the example.
        step: Distance of widths in channels; the width of a group is a multiple of it, or full.
        least: Least share of a group's channels that stay.
        w_bits: Bits of weights to choose from.
        a_bits: Bits of inputs to choose from.
        ends: Bits of the first and the last layers with weights; ``None`` to choose as in all others.
        keep: Globs over names of nodes whose channels and blocks stay as they are.
        genes: What is fixed, narrowed or grouped, by globs over the names of layers and blocks: see ``Choices``.
        sparsity: Sparsities of weights to choose from, of all layers but the first and the last ones, which stay dense
            unless ``genes`` says otherwise; ``None`` for dense weights.
        device: Preset, or name of one, of a device; what it does not run is left out.
    """

    data: str | None = None
    normalisation: Pixels | None = None
    sizes: SizeChoice | None = None
    step: Channels = 8
    least: Annotated[float, Finite(0, 1, above=True)] = 0.25
    w_bits: BitChoice = (2, 4, 8)
    a_bits: BitChoice = (2, 4, 8)
    ends: Bits | None = 8
    keep: tuple[str, ...] = ()
    genes: Annotated[dict[str, Any], AfterValidator(_entries)] = Field(default_factory=dict)
    sparsity: SparsityChoice | None = None
    device: PresetOrName | None = None


@dataclass(frozen=True)
class Choice:
    """Values of one quantity of a model.

    Attributes:
        values: Values, ascending.
        gene: Name of the gene that chooses among them; empty if there is one value, or nothing depends on it.
    """

    values: tuple[Any, ...]
    gene: str = ""

    def among(self, chosen: Mapping[str, Any]) -> Any:
        """Value, given those of genes by name."""
        return chosen[self.gene] if self.gene else self.values[-1]


class Choices:
    """Open quantities of a traced model, each with its values and its gene.

    ``genes`` of the options has, for each glob over the user's names, a mapping with some of the keys

    - ``width``: ``"full"``, or numbers of channels of the first layer that makes the channels of a group. The glob
      names any of the layers that make them.
    - ``depth``: 1 to keep the removable blocks that the glob names, 0 to leave them out.
    - ``w_bits``, ``a_bits``, ``bits`` (both): bits of the layers that the glob names.
    - ``sparsity``: shares of zeros among their weights, or N:M patterns.

    Values are a number or a list of numbers. ``"together"``, alone or first in a list, makes one gene of all that the
    glob names. Entries are applied in order, so that later ones refine earlier ones.

    Attributes:
        blocks: Removable blocks.
        depths: For each removable block by name, whether it is there.
        widths: For each group that can shrink, by index, its channels in its first maker.
        w_bits: Bits of the weights of each convolution and linear layer, by name.
        a_bits: Bits of their inputs.
        sparsity: Shares of zeros among the weights, from the most to the fewest.
        sparse_groups: Inputs in a group of N:M sparsity; 1 for unstructured sparsity.
        genes: Genes in the order of the genome: depths, the image size, widths, sparsities, bits of weights, bits of
            inputs.
        block_of: Name of the removable block of each node that is in one.
        pairs: For pairs of a gene of the bits of weights and one of the bits of inputs, their allowed values, where not
            all are.
    """

    def __init__(
        self, graph: Graph, coupling: Coupling, blocks: Sequence[Removable], options: ModelOptions, sizes: Sequence[int]
    ) -> None:
        """Lay out the genes.

        Raises:
            SpaceError: If an entry of ``genes`` names nothing, or a value that a gene cannot have.
        """
        self._coupling = coupling
        self.blocks = tuple(blocks)
        self.block_of = {node: block.name for block in blocks for node in block.nodes}
        self._members: dict[Kind, dict[str, tuple[str, ...]]] = {
            "depth": {block.name: (block.name,) for block in blocks},
            "width": {
                group.name: (group.name, *group.makers) for group in (coupling.groups[i] for i in coupling.shrinkable)
            },
            **{kind: {node.name: (node.name,) for node in graph.weighted} for kind in OF_LAYERS},
        }
        self._index = {coupling.groups[i].name: i for i in coupling.shrinkable}
        values: dict[Kind, dict[str, tuple[int, ...]]] = {
            "depth": dict.fromkeys(self._members["depth"], (0, 1)),
            "width": {
                name: stepped(coupling.groups[i], options.step, options.least) for name, i in self._index.items()
            },
            "w_bits": dict.fromkeys(self._members["w_bits"], options.w_bits),
            "a_bits": dict.fromkeys(self._members["a_bits"], options.a_bits),
        }
        self._inputs = {node.name: graph.shapes[node.parameters["weight"]][1] for node in graph.weighted}
        values["sparsity"], self.sparse_groups = self._sparsities(graph, options)
        if options.ends is not None:
            for name in ends(graph):
                values["w_bits"][name] = values["a_bits"][name] = (options.ends,)
        leader: dict[Kind, dict[str, str]] = {kind: {} for kind in values}
        for glob, entry in options.genes.items():
            for key, given in entry.items():
                self._apply(glob, key, _listed(given), values, leader)
        makers = {name: coupling.groups[i].makers for name, i in self._index.items()}
        gone = {name for name, own in values["depth"].items() if own == (0,)}
        pairs: dict[str, frozenset[tuple[int, int]]] = {}
        if options.device is not None:
            there = [node for node in graph.nodes if self.block_of.get(node.name) not in gone]
            pairs = of_device(options.device, graph, coupling, there, ends_of_graph(graph), values, leader)
        self._layers_of = {**{name: (name,) for name in self._members["w_bits"]}, **makers}
        self._chosen: dict[Kind, dict[str, Choice]] = {}
        genes: dict[Kind, list[Gene]] = {}
        for kind, own in values.items():
            self._chosen[kind], genes[kind] = {}, []
            for name, several in own.items():
                inert = kind != "depth" and all(self.block_of.get(node) in gone for node in self._layers_of[name])
                open_ = len(several) > 1 and not inert
                label = f"{leader[kind].get(name, name)} {kind}" if open_ else ""
                self._chosen[kind][name] = Choice(several, label)
                if open_ and all(gene.name != label for gene in genes[kind]):
                    block = "" if kind in ("depth", "width") else leader[kind].get(name, name)
                    genes[kind].append(Gene(label, kind, several, block))
        size = [Gene("resolution", "resolution", tuple(sizes))] if len(sizes) > 1 else []
        self.genes = (*genes["depth"], *size, *genes["width"], *genes["sparsity"], *genes["w_bits"], *genes["a_bits"])
        self.depths, self.w_bits, self.a_bits = (self._chosen[kind] for kind in ("depth", "w_bits", "a_bits"))
        self.sparsity = self._chosen["sparsity"]
        self.pairs: dict[tuple[str, str], frozenset[tuple[int, int]]] = {}
        for name, run in pairs.items():
            key = self.w_bits[name].gene, self.a_bits[name].gene
            self.pairs[key] = self.pairs.get(key, run) & run
        self.widths = {self._index[name]: choice for name, choice in self._chosen["width"].items()}

    def _sparsities(self, graph: Graph, options: ModelOptions) -> tuple[dict[str, tuple[Any, ...]], dict[str, int]]:
        """Sparsities of each layer before entries of ``genes``, and inputs in a group; the ends are dense."""
        own = sparsities(options.sparsity or (0,))
        kept = set(ends(graph)) | {name for name, n in self._inputs.items() if own.group > 1 and n == 1}
        names = list(self._members["sparsity"])
        return (
            {name: (0,) if name in kept else own.values for name in names},
            {name: 1 if name in kept else own.group for name in names},
        )

    def depths_of(self, gene: Gene) -> frozenset[str] | None:
        """Names of the genes of depth of which one must be 1 for a gene to matter; ``None`` if it always matters."""
        if gene.kind in ("depth", "resolution"):
            return None
        own = self._chosen[gene.kind]
        layers = {layer for name, choice in own.items() if choice.gene == gene.name for layer in self._layers_of[name]}
        blocks = {self.block_of.get(layer) for layer in layers}
        always = None in blocks or any(self.depths[str(block)].values == (1,) for block in blocks)
        genes = {self.depths[block].gene for block in blocks if block is not None}
        return None if always else frozenset(genes - {""})

    def _apply(
        self,
        glob: str,
        key: str,
        given: list[Any],
        values: dict[Kind, dict[str, tuple[int, ...]]],
        leader: dict[Kind, dict[str, str]],
    ) -> None:
        """Apply one key of an entry of ``genes``."""
        where = f"genes: {glob!r}: {key}"
        for kind in KEYS[key]:
            names = [name for name, own in self._members[kind].items() if any(fnmatchcase(one, glob) for one in own)]
            if not names:
                raise SpaceError(f"{where}: {self._nothing(glob, kind)}")
            sparse = _sparsities(where, given) if kind == "sparsity" else None
            numbers = [one for one in given if isinstance(one, int)] if kind != "sparsity" else []
            for name in names:
                if sparse is not None:
                    self._check_inputs(where, name, sparse)
                    values[kind][name], self.sparse_groups[name] = sparse
                    continue
                if FULL in given:
                    values[kind][name] = values[kind][name][-1:]
                elif numbers:
                    values[kind][name] = self._checked(where, kind, name, numbers)
            if TOGETHER in given:
                if kind == "sparsity" and len({self.sparse_groups[name] for name in names}) > 1:
                    raise SpaceError(f"{where}: patterns have several M; give the values as well (['{TOGETHER}', ...])")
                if differing := [name for name in names if values[kind][name] != values[kind][names[0]]]:
                    one, other = (f"{n!r} {list(values[kind][n])}" for n in (names[0], differing[0]))
                    raise SpaceError(
                        f"{where}: {one} and {other} have different values, so no gene can be of both; give the values "
                        f"as well (['{TOGETHER}', ...]), or a glob of fewer layers"
                    )
                leader[kind] |= dict.fromkeys(names, glob)

    def _check_inputs(self, where: str, name: str, own: Sparsities) -> None:
        """Refuse N:M patterns for layers with one input for each output, of which all would be kept."""
        if own.group > 1 and self._inputs[name] == 1:
            raise SpaceError(
                f"{where}: {name!r} is a depthwise convolution with one input channel for each output, of which no "
                "pattern leaves any out; give shares of zeros such as 0.5, or a glob of other layers"
            )

    def _checked(self, where: str, kind: Kind, name: str, numbers: Sequence[int]) -> tuple[int, ...]:
        """Values of one quantity, ascending.

        Raises:
            SpaceError: If it cannot have one of them.
        """
        own = tuple(sorted(set(numbers)))
        if kind == "depth":
            if wrong := [one for one in own if one not in (0, 1)]:
                raise SpaceError(f"{where}: {wrong[0]} is no depth of a block; give 0, 1 or both")
        elif kind == "width":
            group = self._coupling.groups[self._index[name]]
            unit, full = group.unit_channels, group.n_units * group.unit_channels
            if wrong := [one for one in own if one % unit or not unit <= one <= full]:
                of = f"multiples of {unit} up to {full}" if unit > 1 else f"1 to {full}"
                raise SpaceError(f"{where}: {name!r} cannot have {wrong[0]} channels; its widths are {of}")
        elif wrong := [one for one in own if not 2 <= one <= 8]:
            raise SpaceError(f"{where}: {wrong[0]} bits are not possible; give 2 to 8")
        return own

    def _nothing(self, glob: str, kind: Kind) -> str:
        """Why a glob names nothing of a kind."""
        layers = list(self._members["w_bits"])
        if kind == "depth":
            known = _some(self._members["depth"]) or "none"
            return f"names no removable block; there are: {known}"
        if kind == "width":
            for group in self._coupling.groups:
                if group.locked and any(fnmatchcase(name, glob) for name in (group.name, *group.makers)):
                    return f"all channels of {group.name!r} are kept: {group.locked}"
            if any(fnmatchcase(name, glob) for name in layers):
                return "names layers whose channels cannot be removed, such as the last one"
            return f"names no layer with channels that can be removed; there are: {_some(self._members['width'])}"
        return f"names no convolution or linear layer; there are: {_some(layers)}"


def _some(names: Iterable[str], n: int = 4) -> str:
    listed = list(names)
    return ", ".join(map(repr, listed[:n])) + (f", ... ({len(listed)} in all)" if len(listed) > n else "")


def stepped(group: ChannelGroup, step: int, least: float) -> tuple[int, ...]:
    """Widths of a group in channels of its first maker: whole units, about ``step`` channels apart, and all of them.

    Args:
        group: Coupled channels.
        step: Distance in channels.
        least: Least share of the channels.
    """
    unit, full = group.unit_channels, group.n_units * group.unit_channels
    distance = max(1, round(step / unit)) * unit
    return (*(n for n in range(distance, full, distance) if n >= least * full), full)


def ends(graph: Graph) -> tuple[str, ...]:
    """Names of the layers with weights that read the image, then of those that no other one reads."""
    found = ends_of_graph(graph)
    order = [node.name for node in graph.nodes]
    first, last = (sorted(names, key=order.index) for names in found)
    return tuple(dict.fromkeys((*first, *last)))


def ends_of_graph(graph: Graph) -> Ends:
    """The layers with weights that read the image, and those that no other one reads."""
    first: list[str] = []
    fresh = {IMAGE}  # what has been through no layer with weights
    for node in graph.nodes:
        if node.kind in WEIGHTED and not fresh.isdisjoint(node.inputs):
            first.append(node.name)
        elif node.kind not in WEIGHTED and fresh.issuperset(node.inputs):
            fresh.add(node.name)
    final = {graph.nodes[-1].name}
    last: list[str] = []
    for node in reversed(graph.nodes):
        if node.name in final:
            if node.kind in WEIGHTED:
                last.append(node.name)
            else:
                final.update(node.inputs)
    return Ends(frozenset(first), frozenset(last))
