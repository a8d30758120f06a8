"""Embeddings."""

import secrets

from spendfuse.simulator.asgi import Receive, Send, json_headers, send_body, send_start
from spendfuse.simulator.bill import OpenCall
from spendfuse.simulator.counting import count_embeddings
from spendfuse.simulator.rendering import embeddings
from spendfuse.simulator.requests import EmbeddingsRequest, check_embeddings, model_for, parse
from spendfuse.simulator.serving import Arrival, first_token, run_call


async def serve_embeddings(arrival: Arrival, receive: Receive, send: Send) -> None:
    request = parse(EmbeddingsRequest, arrival.http.body)
    model = model_for(request.model, "embeddings")
    check_embeddings(request)
    tokens = await arrival.counted(count_embeddings, request)
    call = OpenCall(
        id=f"embd-{secrets.token_hex(12)}",
        endpoint="embeddings",
        model=model,
        started_at=arrival.received.epoch_s,
        pace=arrival.pace(0),
        headers=tuple(arrival.http.headers),
        input_tokens=tokens,
        cached_tokens=0,
    )
    await run_call(call, arrival, receive, _answer(call, request, arrival, send))


async def _answer(call: OpenCall, request: EmbeddingsRequest, arrival: Arrival, send: Send) -> None:
    await first_token(call, arrival)
    usage = {"prompt_tokens": call.input_tokens, "total_tokens": call.input_tokens}
    body = embeddings(
        request.model,
        inputs=len(request.texts),
        dimensions=request.dimensions,
        base64_encoded=request.encoding_format == "base64",
        usage=None if arrival.behaviour.omit_usage else usage,
    )
    arrival.bill.complete(call, arrival.now())
    await send_start(send, 200, json_headers(len(body)))
    await send_body(send, body)
