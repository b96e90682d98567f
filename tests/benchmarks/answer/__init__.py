"""How much training it takes until a study has an answer, and how often the answer is wrong."""
