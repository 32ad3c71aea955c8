"""Lowering: the program of a network, from its layers and their parameters.

A tensor that layers without weights read, or several layers, is quantized once, at the bits at which it is stored; a
layer whose multiplications have other bits requantizes it. Any other tensor is quantized at the bits of its reader.
Layers that only move values have no quantizer: their output has scale and bits of their input. What is only moved
between the last operation and the logits is not quantized either.
This is what subnets simulate in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apq_tune.deploy.forms import LayerForm, Shape, forms_of_graph, forms_of_layers
from apq_tune.deploy.program import Program
from apq_tune.deploy.program_builder import Parameters, ProgramBuilder
from apq_tune.network.layer import Layer
from apq_tune.supernet.frozen import FrozenSubnet
from apq_tune.supernet.interfaces import AnySubnet


def program_of(subnet: AnySubnet) -> Program:
    """Program of a subnet at the bits of its candidate.

    Raises:
        DeployError: If a layer has no integer form.
    """
    size, forms = subnet.space.resolutions[-1], None
    image: Shape = (subnet.space.input.channels, size, size)
    if (graph := subnet.graph) is not None:
        forms = forms_of_graph(graph)
        image = image if graph.image[1] == graph.image[2] else graph.image
    return build(subnet.layers, FrozenSubnet(subnet), image, forms)


def build(
    layers: Sequence[Layer], parameters: Parameters, image: Shape, forms: Mapping[str, LayerForm] | None = None
) -> Program:
    """Program of a network.

    Args:
        layers: Layers in the order of the forward pass, with integer numbers; the output of the last one is the logits.
        parameters: Parameters of the layers.
        image: Shape of an image as the data loader yields it, ``(channels, height, width)``; resized if the network
            reads another size.
        forms: Forms of the layers and of the image as the network reads it; by default those of a network of blocks.

    Raises:
        DeployError: If a layer has no integer form.
    """
    builder = ProgramBuilder(layers, parameters, forms or forms_of_layers(layers, image[0]))
    builder.image(image)
    for layer in layers:
        builder.add(layer)
    return Program(tuple(builder.steps), builder.tensors)
