"""Recurrent layers: the modelling files' chunked scans become one semantic op that carries a state from token to token.

Each function here stands for one of that name in a modelling file, with its arguments and results.
"""

import torch
from torch import Tensor
from torch.nn import functional

from onnxmake.model.capture import attention


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor | None, state: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """q and k [B,S,H,K], v [B,S,H,V], decay [B,S,H] or [B,S,H,K], beta [B,S,H], state [B,H,K,V] -> [B,S,H,V], last state.

    Token by token: state *= exp(decay); state += k (beta (v - state^T k))^T, or k v^T without beta; out = scale state^T q.
    Yang et al. 2025, "Gated Delta Networks"; Dao and Gu 2024, "Transformers are SSMs".
    """
    (batch, seq, heads, keys), values = k.shape, v.shape[-1]
    if state is None:
        state = torch.zeros(batch, heads, keys, values)
    if not torch.compiler.is_exporting():
        return torch.zeros(batch, seq, heads, values), state
    out, last = torch.onnx.ops.symbolic_multi_out(
        "onnxmake::LinearAttention",
        [t if t is None else t.float() for t in (q, k, v, decay, state, beta)],
        {"scale": scale},
        dtypes=[torch.float32] * 2,
        shapes=[[batch, seq, heads, values], [batch, heads, keys, values]],
        version=1,
    )
    return out.to(v.dtype), last


def _repeat(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], dim=2, output_size=heads)


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)


def delta_rule(
    query, key, value, g, beta, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False, **_
) -> tuple[Tensor, Tensor | None]:
    """Gated delta rule, decay g by head (Qwen) or by channel (Kimi)."""
    query, key = (_repeat(x.float(), value.shape[2]) for x in (query, key))
    if use_qk_l2norm_in_kernel:
        query, key = _unit(query), _unit(key)
    out, state = linear_attention(query, key, value, g, beta, initial_state, query.shape[-1] ** -0.5)
    return out, state if output_final_state else None


def chunk_scan(
    hidden_states,
    dt,
    A,
    B,
    C,
    chunk_size,
    D=None,
    dt_bias=None,
    initial_states=None,
    dt_softplus=False,
    dt_limit=(0.0, float("inf")),
    return_final_states=False,
    **_,
):
    """State space model of Mamba 2: states are [B,H,V,K] here, values are hidden states times the time step."""
    heads = hidden_states.shape[2]
    dt = dt if dt_bias is None else dt + dt_bias.to(dt.dtype)
    dt = (functional.softplus(dt) if dt_softplus else dt).clamp(*dt_limit)
    x = hidden_states.float()
    state = None if initial_states is None else initial_states.transpose(2, 3)
    values = x * dt[..., None].float()
    out, state = linear_attention(
        _repeat(C, heads), _repeat(B, heads), values, A.float() * dt.float(), None, state, 1.0
    )
    out = out if D is None else out + D[..., None] * x
    return (out, state.transpose(2, 3)) if return_final_states else out


def selective_scan(
    hidden_states,
    dt,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
    **_,
):
    """State space model of Mamba 1, over [B,I,S] and B, C [B,N,S]: each channel is a head of one value, whose N states decay
    by A [I,N]. Modelling files hand in no past, though a layer has one. Gu and Dao 2023, "Mamba"."""
    channels, dt = hidden_states.shape[1], dt.float() if delta_bias is None else dt.float() + delta_bias[:, None]
    dt = (functional.softplus(dt) if delta_softplus else dt).transpose(1, 2)
    x, past = hidden_states.float().transpose(1, 2), attention.context().recurrent
    q, k = (_repeat(t.float().transpose(1, 2)[:, :, None], channels) for t in (C, B))
    state = None if past is None else past[..., None]
    out, state = linear_attention(q, k, (x * dt)[..., None], dt[..., None] * A, None, state, 1.0)
    out = out[..., 0] if D is None else out[..., 0] + D * x
    out = out.transpose(1, 2) if z is None else out.transpose(1, 2) * functional.silu(z.float())
    return (out, state[..., 0]) if return_last_state else out


def masked(hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """States [B,S,H] without those of padding, by the end of the mask [B, total]."""
    if attention_mask is None:
        return hidden_states
    last = attention_mask[:, -hidden_states.shape[1] :, None]
    return (hidden_states * last).to(hidden_states.dtype)


FUNCTIONS = {
    "torch_chunk_gated_delta_rule": delta_rule,
    "torch_recurrent_gated_delta_rule": delta_rule,
    "chunk_kimi_delta_attention": delta_rule,
    "recurrent_kimi_delta_attention": delta_rule,
    "mamba2_chunk_scan": chunk_scan,
    "mamba_selective_scan": selective_scan,
    "apply_mask_to_padding_states": masked,
}
