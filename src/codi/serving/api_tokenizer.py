"""The model's tokenizer over HTTP, under the paths that lm-evaluation-harness and others know from vLLM.

With it `local-completions` needs no tokenizer of its own.
"""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request

from codi.generation.latent_reasoner import LatentReasoner
from codi.serving.api_body import json_body, parse_object
from codi.serving.api_errors import ERRORS, ApiError
from codi.serving.api_requests import are_ids


def add_tokenizer(app: FastAPI, reasoner: LatentReasoner) -> None:
    """Add `/tokenize`, `/detokenize` and `/tokenizer_info` to an app."""
    tokenizer = reasoner.tokenizer

    @app.post("/tokenize", responses=ERRORS, openapi_extra=_object("prompt", {"type": "string"}))
    async def tokenize(request: Request) -> dict[str, Any]:
        asked = await _asked(request)
        prompt, special = asked.get("prompt"), asked.get("add_special_tokens", True)
        if not isinstance(prompt, str):
            raise ApiError(400, "prompt: Input should be a text", "invalid_request", "prompt")
        if not isinstance(special, bool | None):
            told = "add_special_tokens: Input should be true or false"
            raise ApiError(400, told, "invalid_request", "add_special_tokens")
        ids = await anyio.to_thread.run_sync(
            lambda: list[int](tokenizer(prompt, add_special_tokens=special is not False)["input_ids"])
        )
        return {"tokens": ids, "count": len(ids), "max_model_len": reasoner.model.longest_sequence}

    ids_schema = {"type": "array", "items": {"type": "integer"}}

    @app.post("/detokenize", responses=ERRORS, openapi_extra=_object("tokens", ids_schema))
    async def detokenize(request: Request) -> dict[str, Any]:
        ids = (await _asked(request)).get("tokens")
        if not isinstance(ids, list) or not are_ids(ids) or not all(0 <= one < len(tokenizer) for one in ids):
            told = f"tokens: Input should be a list of token ids from 0 to {len(tokenizer) - 1}"
            raise ApiError(400, told, "invalid_request", "tokens")
        return {"prompt": await anyio.to_thread.run_sync(lambda: str(tokenizer.decode(ids)))}

    @app.get("/tokenizer_info")
    async def tokenizer_info() -> dict[str, Any]:
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return {
            "tokenizer_class": type(tokenizer).__name__,
            **{name: getattr(tokenizer, name, None) for name in names},
        }


async def _asked(request: Request) -> dict[str, Any]:
    return parse_object(await json_body(request))


def _object(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    body = {"type": "object", "properties": {name: schema}, "required": [name]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}
