"""What awkward answers mean."""

import pytest

from mimo_codec.evaluation.lm.parsing import final_answer, is_choice, option_letter

A, B, C, D = range(4)
OPTIONS = [
    ("Option A", A),
    ("option b.", B),
    ("OPTION C", C),
    ("The answer is option d", D),
    ("optionB", B),
    ("Option   C, because option A is wrong", C),
    ("Option\nD", D),
    ("  option a", A),
    ("It's Option B!", B),
    ("Options: A", None),
    ("B", None),
    ("Option E", None),
    ("", None),
    ("the option is B", None),
    ("Option (A)", None),
    ("Option: A", None),
    ("I think option B or option C", B),
    ("adoption D", D),
    ("选项 C", C),
    ("答案是选项b。", B),
    ("Option. A", None),
    ("Optional", A),  # as the published expression reads it
]


@pytest.mark.parametrize(("text", "option"), OPTIONS)
def test_letters_of_options(text: str, option: int | None) -> None:
    assert option_letter(text) == option


ANSWERS = [
    ("Dog barking", "Dog barking"),
    (" Dog barking.\n\nSomething else", "Dog barking"),
    ("Answer: Dog barking", "Dog barking"),
    ("answer - Dog barking", "Dog barking"),
    ("Answer:\nDog barking\nmore", "Dog barking"),
    ("Answer:\n\n**Dog barking** it is", "**Dog barking** it is"),  # words alone are compared
    ("The correct answer is: 'Dog barking'.", "'Dog barking'"),
    ("The correct choice is Dog barking", "Dog barking"),
    ("correct answer is **Dog barking**", "Dog barking"),
    ("I hear a cat.\nAnswer: cat\nAnswer: Dog barking", "Dog barking"),
    ("It is **Dog barking**, I think.", "Dog barking"),
    ("First **Cat**, then **Dog barking**", "Dog barking"),
    ("`Dog barking`", "Dog barking"),
    ('"Dog barking"', "Dog barking"),
    ('\\"Dog barking\\"', "Dog barking"),
    ("Dog   barking", "Dog barking"),
    ("\n\n  Dog barking  \n", "Dog barking"),
    ("", ""),
    ("...", ""),
    ("<think>It may be a cat.\nAnswer: cat</think>\nDog barking", "Dog barking"),
    ("<think>\n\n</think>\nAnswer: Dog barking", "Dog barking"),
    ("My answer: cat", "My answer: cat"),  # the line does not begin with it
    ("Answer:", "Answer"),
]


@pytest.mark.parametrize(("text", "answer"), ANSWERS)
def test_final_answers(text: str, answer: str) -> None:
    assert final_answer(text) == answer


CHOICES = ["Dog barking", "A cat", "Dog howling", "Two dogs barking"]
SAME = [
    ("dog barking", True),
    ("Barking dog!", True),
    ("(A) Dog barking", False),  # "a" is a word of another choice
    ("The dog is barking", True),
    ("Dog howling", False),
    ("Dog barking and howling", False),
    ("Dog", False),
    ("", False),
    ("Two dogs barking", False),
]


@pytest.mark.parametrize(("said", "right"), SAME)
def test_choices_are_compared_by_their_words(said: str, right: bool) -> None:
    assert is_choice(said, "Dog barking", CHOICES) is right


def test_there_are_fifty() -> None:
    assert len(OPTIONS) + len(ANSWERS) + len(SAME) >= 50
