"""What is said of a recording's sound: all of it, in a message that stays short."""

from twostage_asr.engine.audio.notes import Notes
from twostage_asr.engine.transcript import TranscriptWarning


def messages(notes: Notes) -> list[tuple[str, str]]:
    return [(warning.code, warning.message) for warning in notes.warnings()]


def test_stretches_that_touch_are_one() -> None:
    notes = Notes()
    for start, end in [(1.0, 2.0), (2.01, 2.5), (2.52, 3.0)]:
        notes.add_gap(start, end)
    told = "the file has no audio at 1.00 to 2.50 s, 2.52 to 3.00 s; 1.97 s of silence were put in"
    assert messages(notes) == [("filled_gap", told)]


def test_eight_places_are_named_and_the_others_counted() -> None:
    notes = Notes()
    for second in range(10):
        notes.add_gap(second, second + 0.5)
        notes.add_skipped(1_000, f"from byte {second}")
        notes.add_cancelled(second % 2, second, second + 0.5)
    gaps = ", ".join(f"{second}.00 to {second}.50 s" for second in range(8))
    bytes_at = ", ".join(f"from byte {second}" for second in range(8))
    even = ", ".join(f"{second}.00 to {second}.50 s" for second in (0, 2, 4, 6, 8))
    odd = ", ".join(f"{second}.00 to {second}.50 s" for second in (1, 3, 5, 7, 9))
    cancelled = "the channels cancel each other at {}; channel {} alone was heard there"
    assert messages(notes) == [
        ("filled_gap", f"the file has no audio at {gaps} and 2 other places; 5.00 s of silence were put in"),
        ("louder_channel", cancelled.format(even, 0)),
        ("louder_channel", cancelled.format(odd, 1)),
        ("skipped_bytes", f"10,000 bytes that are not audio were skipped: {bytes_at} and 2 other places"),
    ]


def test_a_place_that_is_only_counted_does_not_lengthen_the_last_one_that_is_named() -> None:
    notes = Notes()
    for second in range(9):
        notes.add_gap(second, second + 0.5)
    notes.add_gap(8.5, 9.0)
    assert "7.00 to 7.50 s and 1 other places; 5.00 s of silence" in messages(notes)[0][1]


def test_other_warnings_are_kept_up_to_a_bound() -> None:
    notes = Notes()
    for number in range(9):
        notes.add(TranscriptWarning("joined_times", str(number)))
    assert messages(notes) == [("joined_times", str(number)) for number in range(8)]
