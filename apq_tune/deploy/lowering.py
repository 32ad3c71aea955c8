"""Lowering: the program of a network, from its layers and their parameters.

A tensor that layers without weights read, or several layers, is quantized once, at the bits at which it is stored; a
layer whose multiplications have other bits requantizes it. Any other tensor is quantized at the bits of its reader.
Layers that only move values have no quantizer: their output has scale and bits of their input. What is only moved
between the last operation and the logits is not quantized either.
This is what subnets simulate in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apq_tune.deploy.forms import LayerForm, forms_of_graph, forms_of_layers
from apq_tune.deploy.program import Program
from apq_tune.deploy.program_builder import Parameters, ProgramBuilder
from apq_tune.network.layer import Layer
from apq_tune.supernet.frozen import FrozenSubnet
from apq_tune.supernet.interfaces import AnySubnet


def program_of(subnet: AnySubnet) -> Program:
    """Program of a subnet at the bits of its candidate, for images of the size that it reads.

    Raises:
        DeployError: If a layer has no integer form.
    """
    graph = subnet.graph
    forms = forms_of_layers(subnet.layers, subnet.space.input.channels) if graph is None else forms_of_graph(graph)
    return build(subnet.layers, FrozenSubnet(subnet), forms)


def build(layers: Sequence[Layer], parameters: Parameters, forms: Mapping[str, LayerForm]) -> Program:
    """Program of a network.

    Args:
        layers: Layers in the order of the forward pass, with integer numbers; the output of the last one is the logits.
        parameters: Parameters of the layers.
        forms: Forms of the layers and of the image as the network reads it.

    Raises:
        DeployError: If a layer has no integer form.
    """
    builder = ProgramBuilder(layers, parameters, forms)
    builder.image()
    for layer in layers:
        builder.add(layer)
    return Program(tuple(builder.steps), builder.tensors)
