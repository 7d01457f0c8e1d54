"""The text that the stages are measured on."""

from minillm.benchmarking.stages import MB, enlarged_sample, size
from minillm.corpus import DuplicateFilter, SampleSource


def test_the_enlarged_sample_begins_with_the_sample_and_repeats_nothing() -> None:
    originals = list(SampleSource().articles(None, set()))
    articles = enlarged_sample(1.3)
    assert [article.text for article in articles[: len(originals)]] == [article.text for article in originals]
    assert len({article.page_id for article in articles}) == len(articles)
    assert 1.3 * MB <= size(articles) < 1.31 * MB
    copy, original = articles[len(originals)].text, originals[0].text
    assert sorted(copy.split()) == sorted(original.split())
    assert [line for line in copy.split("\n") if line.startswith("==")] == [
        line for line in original.split("\n") if line.startswith("==")
    ]
    assert not any(DuplicateFilter().reasons(article.text for article in (articles[0], articles[len(originals)])))
