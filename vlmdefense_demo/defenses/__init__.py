"""Defences, one method a file, in three folders: the survey's three paradigms."""
