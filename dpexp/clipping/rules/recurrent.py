"""Fused recurrent operations, taken apart into the linear maps of their time steps.

Every function here computes the same as the one it stands for; see `decompose.py`. A weight that is
used at every time step has the sum of those gradients, whose norm the engine takes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Weights(NamedTuple):
    """The parameters of one layer in one direction.

    Attributes:
        of_input: Maps the input to the gates.
        of_state: Maps the hidden state to the gates.
        input_bias: Bias of the former.
        state_bias: Bias of the latter.
        projection: Maps an LSTM's output to a smaller hidden state.
    """

    of_input: Tensor
    of_state: Tensor
    input_bias: Tensor | None
    state_bias: Tensor | None
    projection: Tensor | None


State = tuple[Tensor, ...]
# From the gates' share of the input, the state and the weights to the next state, output first.
Step = Callable[[Tensor, State, Weights], State]


def _lstm_step(from_input: Tensor, state: State, weights: Weights) -> State:
    hidden, cell = state
    gates = from_input + F.linear(hidden, weights.of_state, weights.state_bias)
    into, forget, new, out = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
    hidden = out.sigmoid() * cell.tanh()
    if weights.projection is not None:
        hidden = F.linear(hidden, weights.projection)
    return hidden, cell


def _gru_step(from_input: Tensor, state: State, weights: Weights) -> State:
    (hidden,) = state
    from_state = F.linear(hidden, weights.of_state, weights.state_bias)
    pairs = zip(from_input.chunk(3, -1), from_state.chunk(3, -1), strict=True)
    (reset_x, reset_h), (update_x, update_h), (new_x, new_h) = pairs
    new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
    update = (update_x + update_h).sigmoid()
    return (new + update * (hidden - new),)


def _rnn_step(activation: Callable[[Tensor], Tensor]) -> Step:
    def step(from_input: Tensor, state: State, weights: Weights) -> State:
        gates = from_input + F.linear(state[0], weights.of_state, weights.state_bias)
        return (activation(gates),)

    return step


STEPS: dict[str, Step] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "rnn_tanh": _rnn_step(torch.tanh),
    "rnn_relu": _rnn_step(torch.relu),
}


def is_packed(args: Sequence[Any]) -> bool:
    """Return whether a call is of the form for sequences of several lengths."""
    return len(args) < 4 or not isinstance(args[3], bool)


def recurrence(name: str) -> Callable:
    """Return the recurrent function of this name as a loop over time steps."""
    step = STEPS[name]

    def unrolled(
        input: Tensor,
        states: Tensor | Sequence[Tensor],
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        starts = [states] if isinstance(states, Tensor) else list(states)
        weights = _weights(params, has_biases, num_layers * (1 + bidirectional))
        axis = 1 if batch_first else 0
        # A state of zeros is the samples' own from the start, though it was not made of them.
        own = 0 * input.select(axis, 0)[:, :1]
        ends: list[State] = []
        for layer in range(num_layers):
            outputs = []
            for is_reversed in (False, True)[: 1 + bidirectional]:
                state = tuple(start[len(ends)] + own for start in starts)
                output, end = _run(step, input, state, weights[len(ends)], axis, is_reversed)
                outputs.append(output)
                ends.append(end)
            input = torch.cat(outputs, -1)
            if train and dropout and layer < num_layers - 1:
                input = F.dropout(input, dropout)
        return input, *(torch.stack(parts) for parts in zip(*ends, strict=True))

    return unrolled


def _weights(params: Sequence[Tensor], has_biases: bool, num_runs: int) -> list[Weights]:
    """Return the flat list of parameters by layer and direction."""
    each = len(params) // num_runs
    found = []
    for start in range(0, len(params), each):
        of_input, of_state, *rest = params[start : start + each]
        input_bias, state_bias = (rest.pop(0), rest.pop(0)) if has_biases else (None, None)
        projection = rest[0] if rest else None
        found.append(Weights(of_input, of_state, input_bias, state_bias, projection))
    return found


def _run(
    step: Step, input: Tensor, state: State, weights: Weights, axis: int, is_reversed: bool
) -> tuple[Tensor, State]:
    """Return the outputs of one layer in one direction, and its last state."""
    from_input = F.linear(input, weights.of_input, weights.input_bias).unbind(axis)
    outputs = []
    for each in reversed(from_input) if is_reversed else from_input:
        state = step(each, state, weights)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if is_reversed else outputs, axis), state
