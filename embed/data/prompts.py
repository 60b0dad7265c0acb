"""Task prompts, as Gemini Embedding 2 and EmbeddingGemma 2 use them: for inputs of text alone, never with media."""

from embed.data.modalities import Content, Text

SIMILARITY = "sentence similarity"  # both sides of graded pairs take it
QUERY_TASKS = (
    "search result",
    "question answering",
    "fact checking",
    "code retrieval",
    "classification",
    "clustering",
    SIMILARITY,
)
QUERY = "task: {task} | query: {text}"
DOCUMENT = "title: {title} | text: {text}"


def is_text(content: Content) -> bool:
    """Whether every part is text, so that a prompt applies."""
    return all(isinstance(part, Text) for part in content)


def as_query(content: Content, task: str) -> Content:
    """Put the task string in front of a content of text alone. Raises ValueError for an unknown task."""
    if task not in QUERY_TASKS:
        raise ValueError(f"unknown task {task!r}; one of: {', '.join(QUERY_TASKS)}")
    return _add_prefix(content, QUERY.format(task=task, text=""))


def as_document(content: Content, title: str = "none") -> Content:
    """Format a content of text alone as a document."""
    return _add_prefix(content, DOCUMENT.format(title=title, text=""))


def _add_prefix(content: Content, prefix: str) -> Content:
    if not is_text(content) or not content:
        return content
    first = content[0]
    assert isinstance(first, Text)
    return (Text(prefix + first.text), *content[1:])
