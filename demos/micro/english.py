"""English sentences that the micro checkpoint knows."""

import random

from grammar import Grammar, Unit, choice, draw_digits, draw_magnitude, same, split_words, spoken_as

_ONES = split_words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = split_words("twenty thirty forty fifty sixty seventy eighty ninety")
MONTHS = split_words("January February March April May June July August September October November December")

# For strings of words that no template makes: only the ear helps there.
WORDS = split_words(
    "forest yellow tree flower fire fish snow early never often maybe because before after under above inside outside "
    "mountain city village country island ocean beach cloud rain wind summer winter morning evening night world street "
    "road bridge bank market airport station school office garden room window table chair bottle pencil letter story "
    "movie picture music computer phone apple water brother sister father baby student teacher doctor farmer queen "
    "friend dog cat horse bird rabbit tiger old happy sad angry sorry quiet loud fast slow hot cold cool big small "
    "good bad long red blue white black purple gold silver stone run walk jump swim fly sing dance laugh cry sleep "
    "drink drive listen speak begin start stop finish build break pull carry give take lose find welcome thank number "
    "family"
)

# Name -> another spelling that is said the same way. The model writes the first unless a hotword asks for the second.
FIRST_NAMES = {
    "John": "Jon", "Steven": "Stephen", "Jeffrey": "Geoffrey", "Philip": "Phillip", "Catherine": "Kathryn",
    "Brian": "Bryan", "Allen": "Alan", "Eric": "Erik", "Sara": "Sarah", "Sean": "Shawn", "Mark": "Marc",
    "Peter": None, "David": None, "Mary": None,
}  # fmt: skip
SURNAMES = {
    "Smith": "Smyth", "Clark": "Clarke", "Thompson": "Thomson", "Brown": "Browne", "Green": "Greene", "Gray": "Grey",
    "Lee": "Leigh", "Cook": "Cooke", "Reed": "Reid", "Stuart": "Stewart", "Wilson": None, "Baker": None,
}  # fmt: skip


def number_words(value: int) -> str:
    """Cardinal number 0..9999 in words: 9270 -> nine thousand two hundred seventy."""
    if value < 20:
        return _ONES[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _TENS[tens - 2] + (f" {_ONES[ones]}" if ones else "")
    size, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    count, rest = divmod(value, size)
    return f"{_ONES[count]} {name}" + (f" {number_words(rest)}" if rest else "")


def year_words(year: int) -> str:
    """1987 -> nineteen eighty seven, 2005 -> two thousand five, 2015 -> twenty fifteen."""
    if 2000 <= year < 2010:
        return number_words(year)
    return f"{number_words(year // 100)} {number_words(year % 100)}"


def _number(rng: random.Random) -> Unit:
    value = draw_magnitude(rng)
    return spoken_as(number_words(value), str(value))


def _dollars(rng: random.Random) -> Unit:
    value = draw_magnitude(rng, least=2)
    return spoken_as(f"{number_words(value)} dollars", f"${value}")


def _percent(rng: random.Random) -> Unit:
    value = rng.randrange(2, 100)
    return spoken_as(f"{number_words(value)} percent", f"{value}%")


def _count(rng: random.Random) -> Unit:
    value = draw_magnitude(rng, least=2)
    noun = rng.choice(("boxes", "bottles", "tickets", "stones", "houses", "pencils", "chairs", "students"))
    return spoken_as(f"{number_words(value)} {noun}", f"{value} {noun}")


def _time(rng: random.Random) -> Unit:
    hour, minute = rng.randrange(1, 13), rng.choice((0, rng.randrange(1, 10), rng.randrange(10, 60)))
    if minute == 0:
        return spoken_as(f"{number_words(hour)} o'clock", f"{hour}:00")
    half = rng.choice(("", " am", " pm"))
    spoken = f"{number_words(hour)} {'oh ' if minute < 10 else ''}{number_words(minute)}{half}"
    return spoken_as(spoken, f"{hour}:{minute:02d}{half.upper()}")


def _date(rng: random.Random) -> Unit:
    month, day = rng.choice(MONTHS), rng.randrange(1, 29)
    plain = f"{month} {number_words(day)}"
    return spoken_as(plain.lower(), f"{month} {day}", plain)


def _year(rng: random.Random) -> Unit:
    year = rng.choice((rng.randrange(1910, 2000), rng.randrange(2000, 2020)))
    return spoken_as(year_words(year), str(year))


def _digits(rng: random.Random) -> Unit:
    digits = draw_digits(rng)
    return spoken_as(" ".join(_ONES[digit] for digit in digits), "".join(map(str, digits)))


def _name(rng: random.Random) -> Unit:
    first, surname = rng.choice(list(FIRST_NAMES)), rng.choice(list(SURNAMES))
    other_first, other_surname = FIRST_NAMES[first], SURNAMES[surname]
    name, alternative = {
        "full": (f"{first} {surname}", f"{first} {other_surname}" if other_surname else None),
        "first": (first, other_first),
        "surname": (surname, other_surname),
    }[rng.choice(("full", "full", "first", "surname"))]
    return Unit(spoken=name.lower(), written=name, plain=name, alternative=alternative, is_name=True)


def _words(rng: random.Random) -> Unit:
    return same(" ".join(rng.sample(WORDS, rng.randrange(2, 6))))


ENGLISH = Grammar(
    language="英文",
    templates=(
        "Set the {setting} to {number}.",
        "Set an alarm for {time}.",
        "Wake me up at {time}.",
        "The train leaves at {time}.",
        "The meeting starts at {time}.",
        "Turn {switch} the {device} in the {room}.",
        "Call {name}.",
        "Please call {name}.",
        "Send a message to {name}.",
        "Say hello to {name}.",
        "I am waiting for {name}.",
        "{name} is my friend.",
        "{name} lives in {city}.",
        "{name} called {when}.",
        "What is the weather in {city} {when}?",
        "The meeting is on {date}.",
        "My birthday is {date}.",
        "We arrive on {date}.",
        "The code is {digits}.",
        "The room number is {digits}.",
        "Please dial {digits}.",
        "He was born in {year}.",
        "The war ended in {year}.",
        "This house was built in {year}.",
        "It started in {year}.",
        "Chapter {number} page {number}.",
        "The battery is at {percent}.",
        "Sales fell {percent}.",
        "It grew {percent}.",
        "We finished {percent}.",
        "The price is {dollars}.",
        "It costs {dollars}.",
        "I paid {dollars}.",
        "Please pay {dollars}.",
        "{number} {operation} {number}.",
        "We need {count}.",
        "I have {count}.",
        "There are {count}.",
        "She bought {count}.",
        "He sold {count}.",
        "{owner} {noun} is {degree} {adjective}.",
        "I want to {action} the {object}.",
        "You should {action} the {object}.",
        "We can {action} the {object}.",
        "Do not {action} the {object}.",
        "{words}.",
        "{words}.",
        "{words}.",
        "{words}.",
        "{words}.",
        "{words}.",
        "{words}.",
    ),
    slots={
        "setting": choice("volume|brightness|temperature|speed"),
        "device": choice("light|fan|heater|camera|alarm|radio|television"),
        "room": choice("kitchen|bathroom|bedroom|garage|living room"),
        "city": choice("London|Paris|Berlin|Boston|Tokyo|Beijing|Shanghai|New York"),
        "when": choice("today|tonight|next week|on Monday|on Tuesday|on Wednesday|on Thursday|on Friday|on Saturday"),
        "switch": choice("on|off"),
        "operation": choice("plus|minus|times"),
        "owner": choice("The|My|Every"),
        "noun": choice("house|doctor|pencil|dog|friend|bottle|sister|student|river|room"),
        "degree": choice("very|really|always|not"),
        "adjective": choice("hot|cold|old|new|happy|sad|quiet|big|small|good|bad|fast|slow"),
        "action": choice("sell|watch|open|close|buy|bring|find"),
        "object": choice("window|bottle|pencil|book|camera|phone|letter|picture|chair"),
        "number": _number,
        "dollars": _dollars,
        "percent": _percent,
        "count": _count,
        "time": _time,
        "date": _date,
        "year": _year,
        "digits": _digits,
        "name": _name,
        "words": _words,
    },
)
