"""What PyTorch's autograd and torch.func ask of a compiled operator.

The operator itself and the one for its gradients are compiled. All other derivatives are those of the specification: in
forward mode it runs in the operator's place, and it is differentiated twice for a gradient of the gradients.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import _compat


def differentiable(
    name: str,
    specification: Callable,
    tensors: int,
    by: tuple[int, ...],
    join: Callable | None = None,
) -> Callable:
    """The operator `ops_dcnv3::{name}` with all of its derivatives, for functions of this package to call.

    Args:
        name: of the operator; that of its gradients is ``{name}_backward``, whose arguments are the gradient of the
            output, those of the operator, and which gradients are wanted.
        specification: takes the arguments of the operator.
        tensors: how many of the arguments are tensors (or None), the first ones.
        by: positions of those that have a gradient.
        join: changes tensors (without the gradient of the output) after images that torch.func.vmap keeps apart were
            joined to one batch: ``join(tensors, number of batches)``.
    """
    operator, operator_backward = (getattr(torch.ops.ops_dcnv3, n).default for n in (name, f'{name}_backward'))

    def as_tuple(found):  # an operator with one gradient returns that alone
        return found if isinstance(found, tuple) else (found,)

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:tensors])
        ctx.options = inputs[tensors:]

    def backward(ctx, grad_output):
        needed, options = ctx.needs_input_grad, ctx.options
        saved = ctx.saved_tensors  # once: checkpointing allows no more
        check(needed[:tensors], (grad_output, *saved))
        wanted = [needed[i] for i in by]
        found = as_tuple(gradients(grad_output, *saved, *options, wanted))
        found = [gradient if want else None for gradient, want in zip(found, wanted, strict=True)]
        return tuple(_replaced([None] * (tensors + len(options)), by, found))

    def setup_context_of_gradients(ctx, inputs, output):
        ctx.save_for_backward(*inputs[: tensors + 1])
        ctx.options = inputs[tensors + 1 :]

    def backward_of_gradients(ctx, *grad_outputs):
        saved = list(ctx.saved_tensors)
        check(ctx.needs_input_grad[1 : tensors + 1], saved)
        *options, wanted = ctx.options
        chosen = [i for i in (0, *(i + 1 for i in by)) if ctx.needs_input_grad[i]]

        def first_gradients(*values):
            arguments = _replaced(saved, chosen, values)
            return tuple(g for g in as_tuple(specified_gradients(*arguments, *options, wanted)) if g is not None)

        pull = torch.func.vjp(first_gradients, *(saved[i] for i in chosen))[1]
        found = pull(tuple(g for g, want in zip(grad_outputs, wanted, strict=True) if want))
        return tuple(_replaced([None] * (tensors + 2 + len(options)), chosen, found))

    def specified_gradients(grad_output, *arguments_and_wanted):
        *arguments, wanted = arguments_and_wanted
        chosen = [i for i, want in zip(by, wanted, strict=True) if want]

        def output(*values):
            return specification(*_replaced(arguments, chosen, values))

        found = iter(torch.func.vjp(output, *(arguments[i] for i in chosen))[1](grad_output))
        gradients = tuple(next(found) if want else None for want in wanted)
        return gradients if len(by) > 1 else gradients[0]

    def check(needed, values):
        # Autograd leaves out a gradient that does not exist, but torch.func and forward mode would take 0 for it.
        special = _compat.is_transformed() or _compat.is_forward_mode(values)
        if special and any(need and i not in by for i, need in enumerate(needed)):
            raise NotImplementedError(f'{name}: there is no derivative by rois; detach them')

    def batched(operator_or_gradients, first):
        def vmap(info, in_dims, *arguments):
            size = info.batch_size
            joined = [
                _joined(a, dim, size) if isinstance(a, Tensor) else a for a, dim in zip(arguments, in_dims, strict=True)
            ]
            if join is not None:
                joined[first : first + tensors] = join(joined[first : first + tensors], size)
            output = operator_or_gradients(*joined)
            parts = tuple(t.unflatten(0, (size, t.shape[0] // size)) for t in as_tuple(output))
            return (parts, (0,) * len(parts)) if isinstance(output, tuple) else (parts[0], 0)

        return vmap

    def call(*arguments):
        if not torch.compiler.is_compiling():
            if _compat.is_forward_mode(arguments[:tensors]):
                check([_compat.has_tangent(t) for t in arguments[:tensors]], arguments[:tensors])
                return specification(*arguments)
            if _compat.is_transformed():
                return function.apply(*arguments)
        return operator(*arguments)

    def gradients(*arguments):
        if not torch.compiler.is_compiling():
            if _compat.is_forward_mode(arguments[: tensors + 1]):
                check([_compat.has_tangent(t) for t in arguments[1 : tensors + 1]], arguments[: tensors + 1])
                return specified_gradients(*arguments)
            if _compat.is_transformed():
                return function_of_gradients.apply(*arguments)
            if not torch.is_grad_enabled():  # the ordinary case, at less cost on the host
                with _compat.below_autograd():
                    return operator_backward(*arguments)
        return operator_backward(*arguments)

    function = _function(name, operator, setup_context, backward, batched(call, 0))
    function_of_gradients = _function(
        f'{name}_backward',
        operator_backward,
        setup_context_of_gradients,
        backward_of_gradients,
        batched(gradients, 1),
    )
    torch.library.register_autograd(operator, backward, setup_context=setup_context)
    torch.library.register_autograd(operator_backward, backward_of_gradients, setup_context=setup_context_of_gradients)
    return call


def _function(name, operator, setup_context, backward, vmap) -> type[torch.autograd.Function]:
    """The operator as torch.func wants it, which does not take what is registered with `torch.library`."""
    methods = dict(
        forward=lambda *arguments: operator(*arguments), setup_context=setup_context, backward=backward, vmap=vmap
    )
    return type(name, (torch.autograd.Function,), {key: staticmethod(method) for key, method in methods.items()})


def _joined(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The dimension of torch.func.vmap, or one for what is the same for all, as the outer part of the first one."""
    tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def _replaced(values, positions, others) -> list:
    values = list(values)
    for position, other in zip(positions, others, strict=True):
        values[position] = other
    return values
