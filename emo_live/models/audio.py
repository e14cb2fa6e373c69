"""From sound to the Backbone: truncated whisper encoder, projection to tokens, audio-attention layers that read them.

Audio-attention reads the tokens of its frame (its own sound and m neighbours on each side, EMO 3.2) and adds the result
through three masks (whole picture, face, lips), as Hallo does (arXiv 2406.08801, section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emo_live.config import AudioAttentionConfig, AudioProjectionConfig, WhisperConfig
from emo_live.models.attention import Attention, attention
from emo_live.models.layers import FeedForward, zeroed

# How strongly the sound moves picture, face and lips; tensors () where a compiled call is to take any value.
Scales = tuple[float | Tensor, ...]


class AudioProjection(nn.Module):
    """(B, T, frames, blocks, width) features -> (B, T, tokens, token_width). Without `hidden` it only folds them."""

    def __init__(self, config: AudioProjectionConfig):
        super().__init__()
        self.config = config
        if config.hidden is not None:
            self.proj1 = nn.Linear(config.frames * config.blocks * config.width, config.hidden)
            self.proj2 = nn.Linear(config.hidden, config.hidden)
            self.proj3 = nn.Linear(config.hidden, config.tokens * config.token_width)
            self.norm = nn.LayerNorm(config.token_width)

    def forward(self, features: Tensor) -> Tensor:
        config = self.config
        if config.hidden is None:
            return features.flatten(2, 3)
        hidden = torch.relu(self.proj1(features.flatten(2)))
        hidden = torch.relu(self.proj2(hidden))
        tokens = self.proj3(hidden).unflatten(-1, (config.tokens, config.token_width))
        out: Tensor = self.norm(tokens)
        return out


class AudioBlock(nn.Module):
    """Reads the sound once for every mask (once for all where `shared`), then adds what each mask lets through."""

    def __init__(self, width: int, heads: int, config: AudioAttentionConfig, factor: int):
        super().__init__()
        self.attn1 = Attention(width, heads) if config.self_attention else None
        self.norm1 = nn.LayerNorm(width) if config.self_attention else None
        self.attn2_0 = Attention(width, heads, config.width)
        self.attn2_1 = None if config.shared else Attention(width, heads, config.width)
        self.attn2_2 = None if config.shared else Attention(width, heads, config.width)
        self.norm2 = nn.LayerNorm(width)
        self.zero_conv_full = zeroed(nn.Conv2d(width, width, 1))
        self.zero_conv_face = zeroed(nn.Conv2d(width, width, 1))
        self.zero_conv_lip = zeroed(nn.Conv2d(width, width, 1))
        self.ff = FeedForward(width, factor)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, audio: Tensor, masks: tuple[Tensor, ...], scales: Scales) -> Tensor:
        """x: (B, h w, C); audio: (B, L, D); masks: full, face, lip, each (B or 1, h w); scales: one for each mask."""
        if self.attn1 is not None and self.norm1 is not None:
            x = self.attn1(self.norm1(x)) + x
        query = self.norm2(x)
        full = self.attn2_0(query, audio)
        heard = (
            full,
            full if self.attn2_1 is None else self.attn2_1(query, audio),
            full if self.attn2_2 is None else self.attn2_2(query, audio),
        )
        layers = (self.zero_conv_full, self.zero_conv_face, self.zero_conv_lip)
        total = x
        for part, layer, mask, scale in zip(heard, layers, masks, scales, strict=True):
            total = total + F.linear(part * mask.unsqueeze(-1), layer.weight.flatten(1), layer.bias) * scale
        out: Tensor = self.ff(self.norm3(total)) + total
        return out


class AudioModule(nn.Module):
    """Audio-attention layer on ((B T), C, h, w); its inner width may differ from C, as in published Hallo."""

    def __init__(self, width: int, inner: int, heads: int, groups: int, config: AudioAttentionConfig, factor: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, inner, 1)
        self.transformer_blocks = nn.ModuleList([AudioBlock(inner, heads, config, factor)])
        self.proj_out = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor, audio: Tensor, masks: tuple[Tensor, ...], scales: Scales) -> Tensor:
        """audio: ((B T), L, D); masks: full, face, lip, each ((B T) or 1, h w)."""
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, audio, masks, scales)
        out: Tensor = x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[-2:]))
        return out


class WhisperBlock(nn.Module):
    """Pre-norm transformer block with whisper's parameter names: (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attn_ln, self.mlp_ln = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)
        self.mlp = nn.ModuleList([nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn_ln(x)
        x = x + self.out(attention(self.query(y), self.key(y), self.value(y), self.heads))
        y = self.mlp_ln(x)
        for layer in self.mlp:
            y = layer(y)
        return x + y


class WhisperEncoder(nn.Module):
    """The first `layers` blocks of whisper's encoder (arXiv 2212.04356) on a context of fixed length L."""

    positional_embedding: Tensor

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.conv1 = nn.Conv1d(config.mels, config.width, 3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.zeros(config.tokens, config.width))
        self.blocks = nn.ModuleList(WhisperBlock(config.width, config.heads) for _ in range(config.layers))

    def states(self, mel: Tensor) -> list[Tensor]:
        """(B, mels, 2 L) log-mel -> the embedding and every block's output, each (B, L, D), without a final norm."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        states = [x + self.positional_embedding]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def forward(self, mel: Tensor) -> Tensor:
        """(B, mels, 2 L) log-mel -> (B, L, D)."""
        return self.states(mel)[-1]

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Takes the encoder weights of an OpenAI whisper checkpoint (`encoder.` keys) that fit this truncation."""
        own = self.state_dict()
        mapped: dict[str, Tensor] = {}
        for key, value in state.items():
            name = key.removeprefix("encoder.").replace(".attn.", ".")
            if key.startswith("encoder.") and name in own:
                mapped[name] = value[: own[name].shape[0]].float() if name == "positional_embedding" else value.float()
        self.load_state_dict(mapped)
