"""The phrases that word problems are made of: five scenarios, once as trained on and once reworded.

Every phrase is a template. Its fields:

    {name}                 a person, with {she} {She} {her} {hers} the pronouns that fit
                           ({her} as in "gives her", {hers} as in "her score")
    {thing}                what the scenario is about (apples, a bus, a tank ...)
    {n}                    the number that a problem starts from, never 1; the question tells it last
    {k}                    the operand of one step, 1 upwards
    {amount}               the operand with its unit, singular where the operand is 1 ("1 dollar")

A wording states each operation's operand as a number and never states another number, so the numbers of a
question are exactly the operands of its steps, in their order, and then the number it starts from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
"""Each step of a problem happens on the next day: "On Monday she ..."."""


@dataclass(frozen=True, slots=True)
class Person:
    """A name and its pronouns: subject (she), object (gives her), possessive (her score)."""

    name: str
    subject: str
    object: str
    possessive: str


def _people(names: str, subject: str, object_: str, possessive: str) -> tuple[Person, ...]:
    return tuple(Person(name, subject, object_, possessive) for name in names.split())


PEOPLE: tuple[Person, ...] = _people(
    "Mia Ana Lily Emma Zoe Sara Nina Rosa Ruth Ivy", "she", "her", "her"
) + _people("Tom Ben Leo Sam Max Noah Omar Finn Jack Raj", "he", "him", "his")


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to tell a scenario: several phrases for each part of the question.

    `openings` say who or what, `starts`, after the steps, how many there were before them.

    `operations` maps each of `+ - * /`, and `c` for the complement {k} - value, to its phrases. `asides` are
    sentences that change nothing.
    """

    openings: tuple[str, ...]
    starts: tuple[str, ...]
    operations: dict[str, tuple[str, ...]]
    endings: tuple[str, ...]
    asides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A setting, what it may be about, and its two wordings: the trained one and the reworded one."""

    name: str
    things: tuple[str, ...]
    trained: Wording
    reworded: Wording
    unit: tuple[str, str] = field(default=("", ""))  # singular and plural, for {amount}


def mixed(scenario: Scenario) -> Wording:
    """The phrases of both wordings, without sentences that change nothing."""
    trained, reworded = scenario.trained, scenario.reworded
    return Wording(
        openings=trained.openings + reworded.openings,
        starts=trained.starts + reworded.starts,
        operations={
            operation: phrases + reworded.operations[operation]
            for operation, phrases in trained.operations.items()
        },
        endings=trained.endings + reworded.endings,
    )


BELONGINGS = Scenario(
    name="belongings",
    things=(
        "apples",
        "marbles",
        "stickers",
        "books",
        "shells",
        "cards",
        "coins",
        "pens",
        "cookies",
        "toys",
        "stamps",
        "beads",
    ),
    trained=Wording(
        openings=("{name} collects {thing}.", "{name} counts {thing}."),
        starts=("{She} starts with {n}.", "At first {she} has {n}."),
        operations={
            "+": (
                "{She} finds {k} more.",
                "{She} buys {k} more.",
                "{She} gets {k} more.",
                "A friend brings {k} more.",
            ),
            "-": (
                "{She} loses {k}.",
                "{She} gives away {k}.",
                "{She} sells {k} of them.",
                "{She} gives {k} to a friend.",
            ),
            "*": (
                "{She} has {k} times as many.",
                "{She} swaps each one for {k}.",
            ),
            "/": (
                "{She} keeps one in {k}.",
                "{She} trades every {k} for one.",
            ),
            "c": ("{She} has what is missing to {k}.", "A friend leaves what is missing to {k}."),
        },
        endings=(
            "How many {thing} are there now?",
            "How many does {she} have now?",
            "How many are there in the end?",
        ),
    ),
    reworded=Wording(
        openings=("There are {thing} {name} has.", "A friend gives {name} {thing}."),
        starts=("At first there are {n}.", "{She} has {n} at first."),
        operations={
            "+": ("{She} gains {k}.", "A friend adds {k} more.", "{She} brings {k} more."),
            "-": ("A friend takes {k} of them.", "{She} drops {k} of them."),
            "*": ("There are {k} times as many.", "A friend swaps each for {k}."),
            "/": ("A friend divides them by {k}.", "Only one in {k} stays."),
            "c": ("{She} keeps what is missing to {k}.", "A friend gives what is missing to {k}."),
        },
        endings=("How many {thing} does {name} have in the end?", "How many {thing} does {she} have now?"),
        asides=("A friend has a game.", "There is rain.", "There is a storm."),
    ),
)

PRICE = Scenario(
    name="price",
    things=("toy", "hat", "lamp", "bag", "cake", "kite", "shirt", "game"),
    unit=("dollar", "dollars"),
    trained=Wording(
        openings=("The shop sells a {thing}.", "There is a {thing} in the shop."),
        starts=("At first it costs {n} dollars.", "The price starts at {n} dollars."),
        operations={
            "+": ("The price rises by {amount}.", "The shop adds {amount}.", "A tax adds {amount}."),
            "-": ("The price drops by {amount}.", "The shop takes off {amount}.", "A coupon saves {amount}."),
            "*": ("The price becomes {k} times as high.", "The shop multiplies it by {k}."),
            "/": ("The shop divides it by {k}.", "A sale divides the price by {k}."),
            "c": ("The price becomes what is missing to {k}.", "The shop makes it what is missing to {k}."),
        },
        endings=(
            "What is the price now?",
            "What does it cost now?",
            "How much is it in the end?",
        ),
    ),
    reworded=Wording(
        openings=("The shop has a {thing}.", "A {thing} has a price."),
        starts=("At first the price is {n} dollars.", "The shop starts at {n} dollars."),
        operations={
            "+": ("It costs {amount} more.", "The cost rises by {amount}.", "A tax takes {amount} more."),
            "-": ("A coupon takes off {amount}.", "The shop drops the price by {amount}."),
            "*": ("It costs {k} times as much.", "A tax multiplies the price by {k}."),
            "/": ("A coupon divides it by {k}.", "The sale divides it by {k}."),
            "c": ("It costs what is missing to {k}.", "The cost becomes what is missing to {k}."),
        },
        endings=("How many dollars is the price in the end?", "How much does the {thing} cost now?"),
        asides=("A friend buys a hat.", "The shop sells a lamp.", "There is rain."),
    ),
)

RIDERS = Scenario(
    name="riders",
    things=("bus", "train", "boat", "ferry", "tram", "van"),
    trained=Wording(
        openings=("A {thing} takes riders.", "There are riders on a {thing}."),
        starts=("At first it has {n}.", "It starts with {n} riders."),
        operations={
            "+": ("It picks up {k} more.", "It takes on {k}.", "A stop adds {k} more."),
            "-": ("It drops off {k}.", "It leaves {k} behind.", "The station takes {k}."),
            "*": (
                "It has {k} times as many.",
                "Each rider becomes {k}.",
            ),
            "/": (
                "Only one in {k} stays.",
                "It keeps one rider of {k}.",
            ),
            "c": ("It keeps what is missing to {k}.", "It leaves with what is missing to {k}."),
        },
        endings=(
            "How many riders are there now?",
            "How many are there in the end?",
        ),
    ),
    reworded=Wording(
        openings=("There is a {thing} with riders.", "The {thing} has riders."),
        starts=("At first there are {n}.", "The {thing} starts with {n} riders."),
        operations={
            "+": ("The {thing} gains {k} more.", "A stop brings {k} more."),
            "-": ("The station takes off {k}.", "The {thing} loses {k}."),
            "*": ("There are {k} times as many.", "A stop multiplies the riders by {k}."),
            "/": ("The station divides them by {k}.", "Only one rider of {k} stays."),
            "c": ("It has what is missing to {k}.", "The {thing} keeps what is missing to {k}."),
        },
        endings=("How many riders does the {thing} have now?", "How many riders are there in the end?"),
        asides=("There is rain.", "The sun rises.", "There is a storm."),
    ),
)

WATER = Scenario(
    name="water",
    things=("tank", "pool", "barrel", "pond", "tub", "well"),
    unit=("liter", "liters"),
    trained=Wording(
        openings=("A {thing} holds water.", "There is water in a {thing}."),
        starts=("At first it holds {n} liters.", "It starts with {n} liters."),
        operations={
            "+": ("The rain adds {amount}.", "A pump brings in {amount}.", "It gains {amount}."),
            "-": ("It leaks {amount}.", "A cow drinks {amount}.", "It loses {amount}."),
            "*": (
                "It holds {k} times as much.",
                "A storm multiplies it by {k}.",
            ),
            "/": (
                "Only one part in {k} stays.",
                "The sun divides it by {k}.",
            ),
            "c": ("It holds what is missing to {k}.", "A pump leaves what is missing to {k}."),
        },
        endings=(
            "How many liters are there now?",
            "How many liters does it hold in the end?",
        ),
    ),
    reworded=Wording(
        openings=("A {thing} has water.", "The water is in a {thing}."),
        starts=("At first there are {n} liters.", "The water starts at {n} liters."),
        operations={
            "+": ("A storm brings {amount} more.", "The {thing} gains {amount}."),
            "-": ("The sun takes away {amount}.", "The {thing} leaks {amount}."),
            "*": ("The water becomes {k} times as much.", "The rain multiplies it by {k}."),
            "/": ("A pump divides the water by {k}.", "It keeps one part in {k}."),
            "c": ("The water becomes what is missing to {k}.", "A storm leaves what is missing to {k}."),
        },
        endings=("How many liters of water does it hold now?", "How much water is there in the end?"),
        asides=("A cow drinks.", "There is a storm.", "The sun rises."),
    ),
)

SCORE = Scenario(
    name="score",
    things=("game", "match", "quiz", "race"),
    unit=("point", "points"),
    trained=Wording(
        openings=("{name} plays a {thing}.", "{name} is in a {thing}."),
        starts=("{She} starts with {n} points.", "At first {she} has {n}."),
        operations={
            "+": ("{She} wins {amount}.", "{She} scores {k} more.", "A bonus adds {amount}."),
            "-": ("{She} loses {amount}.", "A foul takes away {amount}.", "A trap costs {amount}."),
            "*": (
                "A card multiplies {hers} score by {k}.",
                "A bonus makes it {k} times as high.",
            ),
            "/": (
                "A turn divides {hers} score by {k}.",
                "{She} keeps one point in {k}.",
            ),
            "c": ("A card makes it what is missing to {k}.", "{She} keeps what is missing to {k}."),
        },
        endings=(
            "What is {hers} score now?",
            "How many points are there in the end?",
        ),
    ),
    reworded=Wording(
        openings=("{name} starts a {thing}.", "There is a {thing} with {name}."),
        starts=("At first {hers} score is {n} points.", "The score starts at {n} points."),
        operations={
            "+": ("{She} gets {amount} more.", "The score gains {amount}."),
            "-": ("A trap takes away {amount}.", "The score drops by {amount}."),
            "*": ("The score becomes {k} times as high.", "A bonus multiplies it by {k}."),
            "/": ("A card divides the score by {k}.", "A trap leaves {her} one point in {k}."),
            "c": ("The score becomes what is missing to {k}.", "A bonus makes it what is missing to {k}."),
        },
        endings=("How many points is {hers} score now?", "What does {name} score in the end?"),
        asides=("A friend wins a toy.", "A friend starts a game.", "The sun rises."),
    ),
)

SCENARIOS: tuple[Scenario, ...] = (BELONGINGS, PRICE, RIDERS, WATER, SCORE)
