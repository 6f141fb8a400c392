"""The log: facts, the states folded from them, and how they are stored and read.

Importing this package registers every kind of fact.
"""

from bichat.events import audit as audit
from bichat.events import dialogue as dialogue
from bichat.events import function as function
from bichat.events import person as person
from bichat.events import prompt as prompt
