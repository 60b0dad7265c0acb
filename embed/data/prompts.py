"""Task prompts, as Gemini Embedding 2 and EmbeddingGemma 2 use them: on text alone, never beside media."""

from embed.data.modalities import Content, Text

QUERY_TASKS = (
    "search result",
    "question answering",
    "fact checking",
    "code retrieval",
    "classification",
    "clustering",
    "sentence similarity",
)
QUERY = "task: {task} | query: {text}"
DOCUMENT = "title: {title} | text: {text}"


def is_text(content: Content) -> bool:
    """Whether every part is text: only then does a prompt apply."""
    return all(isinstance(part, Text) for part in content)


def as_query(content: Content, task: str) -> Content:
    """The content with its task string in front, where it is text. Raises ValueError for an unknown task."""
    if task not in QUERY_TASKS:
        raise ValueError(f"unknown task {task!r}; one of: {', '.join(QUERY_TASKS)}")
    return _fill(content, QUERY.format(task=task, text=""))


def as_document(content: Content, title: str = "none") -> Content:
    """The content in the document format, where it is text."""
    return _fill(content, DOCUMENT.format(title=title, text=""))


def _fill(content: Content, prefix: str) -> Content:
    if not is_text(content) or not content:
        return content
    first = content[0]
    assert isinstance(first, Text)
    return (Text(prefix + first.text), *content[1:])
