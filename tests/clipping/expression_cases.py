"""Bare parameters and expressions of parameters, as vision transformers and others use them."""

import math
from collections.abc import Callable

import torch
from rule_case import Apply, Case
from timm.layers import LayerScale, StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


def in_place(function: Callable[[Tensor, Tensor], object]) -> Callable[..., Tensor]:
    """A function that changes a copy of the batch in place by a parameter."""

    def changed(x: Tensor, e: Tensor) -> Tensor:
        y = x * 1.0
        function(y, e)
        return y

    return changed


def in_place_operators(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    y = x * 1.0
    y += a
    y -= b
    y *= c
    y /= d
    return y


ELEMENTWISE = {
    "add": Case(lambda: Apply(lambda x, e: x + e, e=(4,)), (3, 4), "add"),
    "add-from-left": Case(lambda: Apply(lambda x, e: e + x, e=(4,)), (3, 4), "add"),
    "subtract": Case(lambda: Apply(lambda x, e: x - e, e=(4,)), (3, 4), "subtract"),
    "subtract-from": Case(lambda: Apply(lambda x, e: e - x, e=(4,)), (3, 4), "subtract_from"),
    "multiply": Case(lambda: Apply(lambda x, e: x * e, e=(4,)), (3, 4), "multiply"),
    "multiply-from-left": Case(lambda: Apply(lambda x, e: e * x, e=(4,)), (3, 4), "multiply"),
    "multiply-transposed": Case(
        lambda: Apply(lambda x, e: x * e.t(), e=(4, 3)), (3, 4), "multiply"
    ),
    "divide": Case(lambda: Apply(lambda x, e: x / e, e=(4,)), (3, 4), "divide"),
    "reversed-operators": Case(
        lambda: Apply(
            lambda x, a, b, c: x.__rsub__(a).__radd__(b).__rmul__(c), a=(4,), b=(4,), c=(4,)
        ),
        (3, 4),
        "multiply add subtract_from",
    ),
    "divide-by-batch": Case(
        lambda: Apply(lambda x, e: e / (2 + x.square()), e=(4,)), (3, 4), "div general"
    ),
    "functions-of-torch": Case(
        lambda: Apply(lambda x, a, b: torch.sub(torch.mul(x, a), b), a=(4,), b=(3, 1)),
        (3, 4),
        "subtract multiply",
    ),
    "add-scalar": Case(lambda: Apply(lambda x, e: x + e, e=()), (3, 4), "add"),
    "add-alpha": Case(
        lambda: Apply(lambda x, e: torch.add(x, e, alpha=2.5), e=(4,)), (3, 4), "add general"
    ),
    # x is the one that is repeated: its own gradient is summed.
    "multiply-repeats-batch": Case(
        lambda: Apply(lambda x, e: (2 * x) * e, e=(1, 3, 4)), (1, 4), "multiply"
    ),
    "multiply-new-axis": Case(
        lambda: Apply(lambda x, e: (x * e).movedim(1, 0), e=(3, 1, 4)), (4,), "mul general"
    ),
    "in-place-add": Case(lambda: Apply(in_place(Tensor.add_), e=(4,)), (3, 4), "add"),
    "in-place-sub": Case(lambda: Apply(in_place(Tensor.sub_), e=(4,)), (3, 4), "subtract"),
    "in-place-mul": Case(lambda: Apply(in_place(Tensor.mul_), e=(4,)), (3, 4), "multiply"),
    "in-place-div": Case(lambda: Apply(in_place(Tensor.div_), e=(4,)), (3, 4), "divide"),
    "in-place-operators": Case(
        lambda: Apply(in_place_operators, a=(4,), b=(4,), c=(4,), d=(4,)),
        (3, 4),
        "divide multiply subtract add",
    ),
    "position-embedding": Case(lambda: Apply(lambda x, e: x + e, e=(1, 3, 4)), (3, 4), "add"),
    "position-embedding-resized": Case(
        lambda: Apply(
            lambda x, e: x + F.interpolate(e, size=(4, 4), mode="bicubic"), e=(1, 2, 3, 3)
        ),
        (2, 4, 4),
        "add",
    ),
    "layer-scale": Case(lambda: LayerScale(4), (3, 4), "multiply"),
    "layer-scale-image": Case(
        lambda: Apply(lambda x, e: x * e.reshape(1, -1, 1, 1), e=(3,)), (3, 4, 4), "multiply"
    ),
}  # fmt: skip


def class_token(x: Tensor, token: Tensor, position: Tensor) -> Tensor:
    return torch.cat([token.expand(x.shape[0], -1, -1), x], dim=1) + position


def index_assignment(x: Tensor, e: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1] = e
    return y


def masked_assignment(x: Tensor, e: Tensor) -> Tensor:
    """Takes as many positions as there are, which vmap cannot: samples go one at a time."""
    y = x.clone()
    y[y[..., 0] > 0] = e
    return y


def mask_token(x: Tensor, e: Tensor) -> Tensor:
    return torch.where(x[..., :1] > 0, e, x)


CONCATENATION = {
    "class-token": Case(
        lambda: Apply(class_token, token=(1, 1, 4), position=(1, 4, 4)), (3, 4), "add cat"
    ),
    "prompts-last": Case(
        lambda: Apply(lambda x, e: torch.cat((x, e.expand(len(x), 2, 4)), 1), e=(2, 4)),
        (3, 4),
        "cat",
    ),
    "two-tokens-and-a-constant": Case(
        lambda: Apply(
            lambda x, a, b: torch.cat(
                [a.expand(len(x), 1, 4), x.new_ones(len(x), 1, 4), x, b.expand(len(x), 1, 4)], -2
            ),
            a=(1, 1, 4),
            b=(1, 4),
        ),
        (3, 4),
        "cat",
    ),
}


def attention(mask: Callable[[Tensor], Tensor], **options: object) -> Callable[..., Tensor]:
    """Attention of the batch (n, heads, t, d) on itself with a trainable mask."""

    def attend(x: Tensor, table: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            x, x.roll(1, -1), x.flip(-1), attn_mask=mask(table), dropout_p=0.0, **options
        )

    return attend


def grouped_attention(x: Tensor, table: Tensor) -> Tensor:
    """Four heads of queries on two of keys and values, with a trainable mask."""
    return F.scaled_dot_product_attention(
        x, x[:, :2].sin(), x[:, 2:].cos(), attn_mask=table, enable_gqa=True
    )


def pooled(x: Tensor, q: Tensor) -> Tensor:
    """Attention of trainable queries on a batch whose last key is masked."""
    mask = torch.tensor([[True, True, False]])
    return F.scaled_dot_product_attention(q.expand(len(x), -1, -1, -1), x, x, attn_mask=mask)


def blinded(x: Tensor, q: Tensor) -> Tensor:
    """The same, with one query that may look at nothing: its output is zero."""
    mask = torch.tensor([[True, True, False], [False] * 3, [True] * 3])
    return F.scaled_dot_product_attention(q.expand(len(x), -1, -1, -1), x, x, attn_mask=mask)


OFFSETS = torch.tensor([[0, 1, 2], [3, 0, 1], [4, 3, 0]])

ATTENTION = {
    "relative-position-table": Case(
        lambda: Apply(attention(lambda table: table[OFFSETS].permute(2, 0, 1)[None]), table=(5, 2)),
        (2, 3, 4),
        "add",
    ),
    "mask-3d": Case(lambda: Apply(attention(lambda m: m), table=(2, 3, 3)), (2, 3, 4), "add"),
    "mask-one-head": Case(lambda: Apply(attention(lambda m: m), table=(3, 3)), (2, 3, 4), "add"),
    "mask-scale": Case(
        lambda: Apply(attention(lambda m: m, scale=0.3), table=(1, 2, 3, 3)), (2, 3, 4), "add"
    ),
    "mask-shared-keys": Case(lambda: Apply(grouped_attention, table=(4, 3, 3)), (4, 3, 4), "add"),
    "query-is-a-parameter-and-keys-are-padded": Case(
        lambda: Apply(pooled, q=(1, 2, 3, 4)), (2, 3, 4), "matmul general"
    ),
    "query-that-sees-nothing": Case(
        lambda: Apply(blinded, q=(1, 2, 3, 4)), (2, 3, 4), "matmul general"
    ),
    "query-is-a-parameter": Case(
        lambda: Apply(
            lambda x, q: F.scaled_dot_product_attention(
                q.expand(len(x), -1, -1, -1), x, x, is_causal=True
            ),
            q=(1, 2, 3, 4),
        ),
        (2, 3, 4),
        "matmul general",
    ),
}


class TokensFirst(nn.Module):
    """Multi-head attention that wants the samples on the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.attention(x, x, x, need_weights=False)[0].transpose(0, 1)


class BatchFirst(nn.Module):
    """Multi-head attention that also returns its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, weights = self.attention(x, x, x)
        return torch.cat([y, weights], -1)


class BothSides(nn.Module):
    """A bilinear layer of the batch with a shifted copy of it."""

    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bilinear(x, x.roll(1, -1))


def generalised_mean(x: Tensor, p: Tensor) -> Tensor:
    return F.avg_pool2d(x.abs().clamp(min=1e-3).pow(p), 2).pow(1 / p)


GENERAL = {
    "generalised-mean": Case(lambda: Apply(generalised_mean, p=(1,)), (2, 4, 4), "pow pow general"),
    "maximum": Case(lambda: Apply(torch.maximum, other=(4,)), (3, 4), "maximum general"),
    "stack": Case(
        lambda: Apply(lambda x, e: torch.stack([x, e.expand_as(x)], 1), e=(4,)),
        (3, 4),
        "stack general",
    ),
    "row-by-condition": Case(
        lambda: Apply(lambda x, w: w[(x[..., 0] > 0).long()], w=(2, 4)),
        (9, 4),
        "__getitem__ general",
    ),
    "addmm": Case(
        lambda: Apply(lambda x, w, b: torch.addmm(b, x, w), w=(4, 3), b=(3,)), (4,), "addmm general"
    ),
    "patches-by-hand": Case(
        lambda: Apply(lambda x, w: w @ F.unfold(x, 3), w=(2, 18)), (2, 5, 5), "matmul general"
    ),
    "matmul-parameter": Case(lambda: Apply(lambda x, w: x @ w, w=(4, 3)), (3, 4), "linear"),
    "matmul-from-left": Case(lambda: Apply(lambda x, w: w @ x, w=(2, 3)), (3, 4), "matmul general"),
    "matmul-stack": Case(
        lambda: Apply(lambda x, w: torch.matmul(x, w), w=(2, 4, 3)), (2, 3, 4), "matmul general"
    ),
    "einsum": Case(
        lambda: Apply(lambda x, w: torch.einsum("nti,oi->nto", x, w), w=(3, 4)),
        (3, 4),
        "einsum general",
    ),
    "bmm": Case(
        lambda: Apply(lambda x, w: torch.bmm(x, w.expand(len(x), 4, 2)), w=(4, 2)),
        (3, 4),
        "bmm general",
    ),
    "where": Case(lambda: Apply(mask_token, e=(4,)), (3, 4), "where general"),
    "prelu": Case(lambda: nn.PReLU(3), (3, 4), "prelu general"),
    "bilinear": Case(BothSides, (4,), "bilinear general"),
    "multi-head-attention": Case(BatchFirst, (3, 4), "multi_head_attention_forward general"),
    "multi-head-attention-tokens-first": Case(
        TokensFirst, (3, 4), "multi_head_attention_forward general"
    ),
    "masked-assignment": Case(
        lambda: Apply(masked_assignment, e=(4,)), (9, 4), "__setitem__ general", has_vmap=False
    ),
    "index-assignment": Case(
        lambda: Apply(index_assignment, e=(4,)), (3, 4), "__setitem__ general", has_vmap=False
    ),
}


def standardised(x: Tensor, w: Tensor) -> Tensor:
    mean, std = w.mean((1, 2, 3), keepdim=True), w.std((1, 2, 3), keepdim=True)
    return F.conv2d(x, (w - mean) / (std + 1e-3))


def query_bias_alone(x: Tensor, w: Tensor, q: Tensor, v: Tensor) -> Tensor:
    return F.linear(x, w, torch.cat((q, torch.zeros_like(q), v)))


def changed_under_a_view(x: Tensor, w: Tensor) -> Tensor:
    """The view of the parameter is made before what it looks at is changed."""
    copy = w.clone()
    view = copy.view(-1)
    copy.mul_(torch.tensor([[3.0, 0.5]], dtype=w.dtype))
    return x * view


EXPRESSION = {
    "changed-under-a-view": Case(
        lambda: Apply(changed_under_a_view, w=(2, 2)), (3, 4), "multiply", has_vmap=False
    ),
    "standardised-weight": Case(lambda: Apply(standardised, w=(4, 3, 3, 3)), (3, 5, 5), "conv2d"),
    "timm-StdConv2d": Case(lambda: StdConv2d(3, 4, 3), (3, 5, 5), "conv2d"),
    "normalised-weight": Case(
        lambda: Apply(lambda x, w: F.linear(x, F.normalize(w, dim=1)), w=(3, 4)), (3, 4), "linear"
    ),
    "weight_norm": Case(lambda: parametrizations.weight_norm(nn.Linear(4, 3)), (3, 4), "linear"),
    "transposed-weight": Case(
        lambda: Apply(lambda x, w: F.linear(x, w.t()), w=(4, 3)), (3, 4), "linear"
    ),
    "part-of-a-weight": Case(
        lambda: Apply(lambda x, w: F.linear(x, w[1:3]), w=(5, 4)), (3, 4), "linear"
    ),
    "query-and-value-bias": Case(
        lambda: Apply(query_bias_alone, w=(6, 4), q=(2,), v=(2,)), (3, 4), "linear"
    ),
    "exponential-scale": Case(
        lambda: Apply(lambda x, e: x * e.clamp(max=math.log(100)).exp(), e=(3, 1)),
        (3, 4),
        "multiply",
    ),
    "product-of-two": Case(
        lambda: Apply(lambda x, a, b: x @ (a @ b), a=(4, 2), b=(2, 3)), (3, 4), "linear"
    ),
}

EXPRESSIONS = {**ELEMENTWISE, **CONCATENATION, **ATTENTION, **GENERAL, **EXPRESSION}
