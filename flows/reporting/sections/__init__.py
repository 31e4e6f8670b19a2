"""The sections of a report, one file each: what it asks, and what the evidence answers.

A section is a view: a frozen dataclass of what its template, of the same name below
``flows/templates/report``, shows. It has no text of its own but its sentences.
"""
