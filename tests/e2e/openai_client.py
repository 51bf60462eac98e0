"""What users of the openai package do, against a Tollgate: URL KEY BASIC_KEY MODEL.

Run by openai.rs, or by hand from the environment that tests/run makes.
"""

import sys

import openai

url, key, basic_key, model = sys.argv[1:]


def client(api_key=key):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=20)


MESSAGES = [{"role": "user", "content": "Say something."}]


def chat():
    answer = client().chat.completions.create(model=model, messages=MESSAGES)
    assert answer.choices[0].message.content, answer
    assert answer.usage.completion_tokens == 16, answer
    assert answer.choices[0].finish_reason == "stop", answer
    short = client().chat.completions.create(model=model, messages=MESSAGES, max_tokens=3)
    assert short.usage.completion_tokens == 3, short


def streaming_chat():
    text, reason, chunks = "", None, 0
    for chunk in client().chat.completions.create(model=model, messages=MESSAGES, stream=True):
        assert chunk.choices, "a usage chunk that nobody asked for"
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
        chunks += 1
    assert text and reason == "stop" and chunks > 10, (text, reason, chunks)


def streaming_chat_with_usage():
    stream = client().chat.completions.create(
        model=model, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]
    assert not last.choices and last.usage.completion_tokens == 16, last


def embeddings():
    for extra in ({}, {"encoding_format": "float"}):
        answer = client().embeddings.create(model=model, input=["one", "two"], **extra)
        assert len(answer.data) == 2 and len(answer.data[0].embedding) > 0, answer
        assert answer.usage.prompt_tokens > 0, answer


def responses():
    answer = client().responses.create(model=model, input="Say something.")
    assert answer.output_text and answer.usage.output_tokens == 16, answer
    kinds = [event.type for event in client().responses.create(model=model, input="x", stream=True)]
    assert kinds[-1] == "response.completed", kinds


def models():
    names = [entry.id for entry in client().models.list()]
    assert model in names, names
    one = client().models.retrieve(model)
    assert (one.id, one.object, one.owned_by) == (model, "model", "tollgate"), one
    try:
        client().models.retrieve("no/such-model")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    else:
        raise AssertionError("there is no such model")


def refusals():
    for bad in ("sk-nonsense", "tg_" + "0" * 45):
        try:
            client(bad).models.list()
        except openai.AuthenticationError as error:
            assert error.code == "invalid_api_key", error
        else:
            raise AssertionError("a bad key was taken")
    try:
        client().chat.completions.create(model="no-such-model", messages=MESSAGES)
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    else:
        raise AssertionError("there is no such model")
    try:
        client().chat.completions.create(model=model, messages=MESSAGES, max_tokens=-1)
    except openai.BadRequestError as error:
        assert error.code == "invalid_request" and error.param == "max_tokens", error
    else:
        raise AssertionError("max_tokens was negative")


def rate_limit():
    limited = client(basic_key)
    try:
        for _ in range(200):
            limited.chat.completions.create(model=model, messages=MESSAGES)
    except openai.RateLimitError as error:
        assert error.code == "rate_limit_exceeded", error
        assert int(error.response.headers["retry-after"]) >= 1
    else:
        raise AssertionError("200 calls at once, and no limit")


TESTS = [
    chat,
    streaming_chat,
    streaming_chat_with_usage,
    embeddings,
    responses,
    models,
    refusals,
    rate_limit,
]

for test in TESTS:
    test()
    print(f"{test.__name__} ok")
print(f"{len(TESTS)} passed")
