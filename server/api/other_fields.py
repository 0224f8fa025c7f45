"""Fields of other servers that this one knows of and hasn't, so that none is dropped in silence.

A body may hold fields that its schema doesn't name. Those that can't change an answer are taken and
left alone (`HARMLESS`); those that would change it are refused by name, unless their value is the
one under which they change nothing (`REFUSED`); so is a field of another endpoint. What nobody
knows is ignored, as clients send ever new ones. `docs/server.md` has both tables.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..connection.error_objects import unsupported
from .protocol.chat import ChatRequest
from .protocol.completion import CompletionRequest
from .protocol.response import ResponseRequest

_HINTS = """
metadata prediction prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier
service_tier request_id session_id user parallel_tool_calls max_tool_calls cache_prompt id_slot
n_cache_reuse n_keep n_discard backend_sampling stream_interval guided_decoding_backend
media_io_kwargs mm_processor_kwargs keep_alive
"""
"""Labels and hints: about accounts, speed, media, or tools that aren't there."""
_COMPANIONS = """
truncation_side xtc_threshold mirostat_tau mirostat_eta dynatemp_exponent adaptive_decay dry_base
dry_allowed_length dry_penalty_last_n dry_sequence_breakers early_stopping length_penalty
routed_experts_prompt_start return_mm_kwargs grammar_triggers preserved_tokens
reasoning_budget_start_tag reasoning_budget_end_tag reasoning_budget_message
"""
"""What only matters beside a field that is refused."""
HARMLESS = frozenset((*_HINTS.split(), *_COMPANIONS.split()))
"""What can't change an answer."""


class Refused(NamedTuple):
    """Why a field can't be honoured, and the values, beside null, that ask for nothing."""

    why: str
    neutral: tuple[Any, ...] = (False, 0, "", [], {})


_GROUPS: tuple[tuple[str, Refused], ...] = (
    (
        """audio functions function_call web_search_options suffix moderation context_management
        background_options access_programs image images image_data prompt_embeds use_beam_search
        mirostat xtc_probability dynatemp_range dry_multiplier adaptive_target n_indent min_keep
        lora lora_path lora_request adapter_id top_a samplers watermarking watermark
        logits_processors custom_logit_processor allowed_token_ids vllm_xargs kv_transfer_params
        ec_transfer_params repetition_detection structural_tag guided_whitespace_pattern
        grammar_lazy t_max_predict_ms stop_regex session_params previous_input_messages
        previous_response transforms plugins provider models route thinking_forced_open
        reasoning_in_content chat_format""",
        Refused("is not supported"),
    ),
    (
        """return_tokens_as_token_ids return_token_ids return_tokens return_prompt_text
        return_token_offsets return_token_strs return_progress return_hidden_states
        return_routed_experts logprob_token_ids timings_per_token post_sampling_probs
        response_fields enable_response_messages details decoder_input_details with_pieces
        return_full_text""",
        Refused("is not supported: the answer has no place for it"),
    ),
    ("template", Refused("can't come with a request: the model's own is used")),
    ("truncate truncate_prompt_tokens", Refused("is not supported: prompts are never cut")),
    ("prompt_logprobs n_probs", Refused("is not supported: use echo with logprobs")),
    ("max_new_tokens num_predict max_length", Refused("is not known here: use max_tokens")),
    ("num_ctx", Refused("can't come with a request: it is the server's max_context")),
    ("min_new_tokens", Refused("is not known here: use min_tokens")),
    ("stop_sequences", Refused("is not known here: use stop")),
    ("regex", Refused("is not known here: use guided_regex")),
    ("ebnf", Refused("is not known here: use guided_grammar")),
    ("format", Refused("is not known here: use response_format")),
    ("do_sample", Refused("is not known here: use temperature", (True,))),
    ("repeat_penalty", Refused("is not known here: use repetition_penalty", (1,))),
    ("repeat_last_n", Refused("can only be -1: penalties are for the whole text", (-1,))),
    ("tfs_z", Refused("is not supported", (1,))),
    ("top_n_sigma", Refused("is not supported", (-1,))),
    ("reasoning_format", Refused("is not supported", ("auto", "deepseek", ""))),
    (
        "enable_thinking thinking think",
        Refused("is not known here: use chat_template_kwargs, as the model's template reads it"),
    ),
    (
        "thinking_token_budget thinking_budget reasoning_budget reasoning_budget_tokens",
        Refused("is not supported: thoughts have no limit of their own", (-1,)),
    ),
    (
        """include_reasoning separate_reasoning stream_reasoning parse_tool_calls
        spaces_between_special_tokens""",
        Refused("can only be true", (True,)),
    ),
    ("extra_body", Refused("is a client's option: send the fields within it themselves")),
    ("options parameters", Refused("is not known here: send the fields within it themselves")),
    ("inputs content", Refused("is not known here: use prompt or messages")),
    ("system", Refused("is not known here: use a message of the role system")),
)
REFUSED = {name: refused for names, refused in _GROUPS for name in names.split()}
"""By name, what would change an answer."""
_ELSEWHERE = {
    name
    for schema in (ChatRequest, CompletionRequest, ResponseRequest)
    for name in schema.model_fields
}
_ABSENT = Refused("is not a field of this endpoint")
_ELSEWHERE_NEUTRAL = {
    "n": (1,),
    "best_of": (1,),
    "add_generation_prompt": (True,),
    "truncation": ("disabled",),
    "tool_choice": ("none", "auto"),
}
"""The values of other endpoints' fields that ask for nothing, where `Refused` doesn't have them."""


def check_other_fields(given: Mapping[str, Any] | None, *, generates: bool = True) -> None:
    """E0215 for a field, of those that a body's schema doesn't name, that can't be honoured.

    An endpoint that doesn't generate may be sent the body of one that does: what other endpoints
    do with a field is nothing to it.
    """
    for name, value in (given or {}).items():
        if name in HARMLESS:
            continue
        refused = REFUSED.get(name)
        if refused is None and generates and name in _ELSEWHERE:
            neutral = _ELSEWHERE_NEUTRAL.get(name, _ABSENT.neutral)
            refused = _ABSENT._replace(neutral=neutral)
        if refused is not None and value is not None and value not in refused.neutral:
            raise unsupported(name, refused.why)
