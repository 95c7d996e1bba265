"""The phrases that word problems are made of: five scenarios, once as trained on and once reworded.

Every phrase is a template. Its fields:

    {name}                 a person, with {she} {She} {her} {hers} the pronouns that fit
                           ({her} as in "gives her", {hers} as in "her score")
    {thing}                what the scenario is about (apples, a bus, a tank ...)
    {n}                    the number a problem opens with, never 1
    {k}                    the operand of one step, 1 upwards
    {amount}               the operand with its unit, singular where the operand is 1 ("1 dollar")

A wording states each operation's operand as a number and never states another number, so the numbers of a
question are exactly the operands of its steps, in their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
"""Each step of a problem happens on the next day: said first ("On Monday she ..."), or last when reworded."""


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

    `operations` maps each of `+ - * /` to its phrases. `asides` are sentences that change nothing.
    """

    openings: tuple[str, ...]
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
        openings=(
            "{name} has {n} {thing}.",
            "{name} starts with {n} {thing}.",
            "{name} keeps {n} {thing} in a box.",
        ),
        operations={
            "+": (
                "{She} finds {k} more.",
                "{She} buys {k} more.",
                "A friend gives {her} {k} more.",
                "{She} gets {k} as a gift.",
            ),
            "-": (
                "{She} loses {k}.",
                "{She} gives away {k}.",
                "{She} sells {k} of them.",
                "{She} gives {k} to a friend.",
            ),
            "*": (
                "{She} has {k} times as many.",
                "The pile is {k} times as big.",
                "{She} swaps each one for {k}.",
            ),
            "/": (
                "{She} makes {k} equal piles and keeps one.",
                "{She} keeps one of {k} equal shares.",
                "{She} trades every {k} for one.",
            ),
        },
        endings=(
            "How many {thing} does {name} have now?",
            "How many {thing} does {she} have in the end?",
            "How many {thing} are there now?",
        ),
    ),
    reworded=Wording(
        openings=("There are {n} {thing} in a box {name} has.", "A friend gives {name} {n} {thing}."),
        operations={
            "+": ("A gift adds {k} more.", "{She} has {k} more.", "{She} brings {k} more."),
            "-": ("The pile loses {k}.", "A friend takes away {k}.", "A friend buys {k} of them."),
            "*": (
                "The pile becomes {k} times as big.",
                "A friend swaps each for {k}.",
                "There are {k} times as many.",
            ),
            "/": (
                "The pile is divided by {k}.",
                "A friend leaves {her} one in {k}.",
                "Only one of {k} equal piles stays.",
            ),
        },
        endings=("How many {thing} are in the pile now?", "How many {thing} are there in the end?"),
        asides=("The box is big.", "A friend has a game.", "There is a storm."),
    ),
)

PRICE = Scenario(
    name="price",
    things=("toy", "hat", "lamp", "bag", "cake", "kite", "shirt", "game"),
    unit=("dollar", "dollars"),
    trained=Wording(
        openings=("A {thing} costs {n} dollars.", "The price of a {thing} is {n} dollars."),
        operations={
            "+": ("The price rises by {amount}.", "The shop adds {amount}.", "A tax adds {amount}."),
            "-": ("The price drops by {amount}.", "The shop takes off {amount}.", "A coupon saves {amount}."),
            "*": ("The price becomes {k} times as high.", "The shop multiplies the price by {k}."),
            "/": ("The shop divides the price by {k}.", "The new price is the old one divided by {k}."),
        },
        endings=(
            "What is the price now?",
            "How many dollars does the {thing} cost now?",
            "What does the {thing} cost in the end?",
        ),
    ),
    reworded=Wording(
        openings=(
            "There is a {thing} in a shop for {n} dollars.",
            "The shop sells a {thing} for {n} dollars.",
        ),
        operations={
            "+": (
                "It costs {amount} more.",
                "A new tax takes {amount} more.",
                "The cost rises by {amount}.",
            ),
            "-": (
                "A gift saves {amount}.",
                "The shop drops the price by {amount}.",
                "The cost drops by {amount}.",
            ),
            "*": ("It costs {k} times as much.", "The new price is the old one times {k}."),
            "/": ("The price is divided by {k}.", "A coupon divides the cost by {k}."),
        },
        endings=("How many dollars is the price in the end?", "What is the new cost of the {thing}?"),
        asides=("The shop is big.", "The {thing} is new.", "A friend buys a box."),
    ),
)

RIDERS = Scenario(
    name="riders",
    things=("bus", "train", "boat", "ferry", "tram", "van"),
    trained=Wording(
        openings=("A {thing} has {n} riders.", "There are {n} riders on a {thing}."),
        operations={
            "+": ("It picks up {k} more.", "At a stop it takes on {k}.", "A stop adds {k} more."),
            "-": ("It drops off {k}.", "It leaves {k} at a stop.", "It loses {k} at the station."),
            "*": (
                "It has {k} times as many.",
                "The load becomes {k} times as big.",
                "Each rider becomes a group of {k}.",
            ),
            "/": (
                "Only one in {k} stays.",
                "The riders form {k} equal groups and one stays.",
                "Only one of {k} equal groups stays.",
            ),
        },
        endings=(
            "How many riders are on the {thing} now?",
            "How many riders does the {thing} have in the end?",
        ),
    ),
    reworded=Wording(
        openings=("The {thing} starts with {n} riders.", "There is a load of {n} riders on a {thing}."),
        operations={
            "+": (
                "The {thing} gets {k} more.",
                "At the station it picks up {k}.",
                "The {thing} gains {k} more.",
            ),
            "-": ("The station takes off {k}.", "The {thing} loses {k}.", "At a stop it drops off {k}."),
            "*": ("The load multiplies by {k}.", "There are {k} times as many."),
            "/": (
                "The load is divided by {k}.",
                "Only one rider of every {k} stays.",
                "It keeps one of {k} equal groups.",
            ),
        },
        endings=("How many riders are there in the end?", "How many riders does it have now?"),
        asides=("The {thing} is old.", "There is rain.", "The station is new."),
    ),
)

WATER = Scenario(
    name="water",
    things=("tank", "pool", "barrel", "pond", "tub", "well"),
    unit=("liter", "liters"),
    trained=Wording(
        openings=("A {thing} holds {n} liters.", "There are {n} liters of water in a {thing}."),
        operations={
            "+": ("The rain adds {amount}.", "A pump brings in {amount}.", "It gains {amount}."),
            "-": ("It leaks {amount}.", "A cow drinks {amount}.", "It loses {amount}."),
            "*": (
                "A flood makes it {k} times as full.",
                "It holds {k} times as much.",
                "A storm multiplies the water by {k}.",
            ),
            "/": (
                "Only one part in {k} stays.",
                "A drain leaves one of {k} equal parts.",
                "The sun divides the water by {k}.",
            ),
        },
        endings=(
            "How many liters does the {thing} hold now?",
            "How many liters of water are there in the end?",
        ),
    ),
    reworded=Wording(
        openings=("The water in a {thing} is {n} liters.", "A {thing} starts with {n} liters of water."),
        operations={
            "+": ("A storm brings {amount} more.", "The {thing} gains {amount}.", "A flood adds {amount}."),
            "-": (
                "The sun takes away {amount}.",
                "A drain takes off {amount}.",
                "The {thing} leaks {amount}.",
            ),
            "*": ("The water becomes {k} times as much.", "The rain makes the {thing} {k} times as full."),
            "/": (
                "The water is divided by {k}.",
                "It keeps one of {k} equal parts.",
                "The pump leaves one part in {k}.",
            ),
        },
        endings=(
            "How many liters are in the {thing} in the end?",
            "How many liters of water does it hold now?",
        ),
        asides=("The {thing} is big.", "A cow drinks at a pond.", "The pump is old."),
    ),
)

SCORE = Scenario(
    name="score",
    things=("game", "match", "quiz", "race"),
    unit=("point", "points"),
    trained=Wording(
        openings=("{name} has {n} points in a {thing}.", "{name} starts a {thing} with {n} points."),
        operations={
            "+": ("{She} wins {amount}.", "{She} scores {k} more.", "A bonus adds {amount}."),
            "-": ("{She} loses {amount}.", "A foul takes away {amount}.", "A bad turn costs {her} {amount}."),
            "*": (
                "A lucky card multiplies {hers} score by {k}.",
                "{She} has {k} times as many.",
                "A bonus makes the score {k} times as high.",
            ),
            "/": (
                "A bad card divides {hers} score by {k}.",
                "{She} keeps one point in {k}.",
                "A trap leaves {her} one of {k} equal shares.",
            ),
        },
        endings=(
            "How many points does {name} have now?",
            "What is the score in the end?",
            "What is {hers} score now?",
        ),
    ),
    reworded=Wording(
        openings=(
            "The score of {name} in a {thing} is {n} points.",
            "There is a {thing} and {name} has {n} points.",
        ),
        operations={
            "+": (
                "A lucky turn adds {amount}.",
                "{She} gets {amount} more.",
                "The score gains {amount}.",
            ),
            "-": (
                "A trap takes away {amount}.",
                "A bad card costs {her} {amount}.",
                "The score drops by {amount}.",
            ),
            "*": ("The score becomes {k} times as high.", "A lucky turn multiplies the points by {k}."),
            "/": (
                "The score is divided by {k}.",
                "A foul leaves {her} one point in {k}.",
                "{She} keeps one of the {k} shares.",
            ),
        },
        endings=("How many points is {hers} score now?", "What does {name} score in the end?"),
        asides=("The {thing} is new.", "A friend wins a toy.", "The {thing} is big."),
    ),
)

SCENARIOS: tuple[Scenario, ...] = (BELONGINGS, PRICE, RIDERS, WATER, SCORE)
