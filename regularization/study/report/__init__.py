"""The report of a study: the page with its HTML template, its tables and figures, and the comparison by image.

May import results, statistics and conclusion of the study, and what ``study`` may import.
"""
