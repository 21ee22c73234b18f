"""Kind 4: what a value means in a column of each type, written as text and in a type of its own, at every door."""
from datetime import UTC, date, datetime, timedelta, timezone
from math import inf, nan


class Answer:
    """What a door says instead of a value."""
    def __init__(self, name: str): self.name = name
    def __repr__(self) -> str: return self.name


REFUSED, MISSING = Answer("refused"), Answer("missing")
MARKS = dict.fromkeys(["", "NA", "N/A", "NaN", "nan", "null", "None"], MISSING)  # of a missing value, where none is a text
NINE = datetime(2024, 3, 1, 9, tzinfo=UTC)

TEXTS = {  # by type: a cell of a CSV, a text in JSON, in a text column of a database or of Parquet
    "integer": MARKS | {
        "3": 3, "-3": -3, "+3": 3, "0": 0, "-0": 0, "007": 7, "-007": -7, "9007199254740993": 2**53 + 1,
        "9223372036854775807": 2**63 - 1, "-9223372036854775807": 1 - 2**63, "9223372036854775808": REFUSED,
        "18446744073709551616": REFUSED, "3.0": 3, "-3.000": -3, "3.": 3, "+17.0": 17, "1e3": 1000, "1.5E1": 15,
        "9007199254740992.0": 2**53, "9007199254740994.0": REFUSED, "1e16": REFUSED, "1e300": REFUSED, "1e999": REFUSED,
        "3.5": REFUSED, "0.1": REFUSED, "1e-1": REFUSED, "9_001": REFUSED, "1,234": REFUSED, "1.234,0": REFUSED, " 3": REFUSED,
        "3 ": REFUSED, "3\t": REFUSED, "3\n": REFUSED, " ": REFUSED, "３": REFUSED, "٣": REFUSED, "−3": REFUSED, "0x1F": REFUSED,
        "0b1": REFUSED, "true": REFUSED, "inf": REFUSED, "-Infinity": REFUSED, "three": REFUSED, "3a": REFUSED, "--3": REFUSED,
        "+-3": REFUSED, "½": REFUSED, "3%": REFUSED, "€3": REFUSED, "(3)": REFUSED, "-": REFUSED, "NAN": REFUSED},
    "number": MARKS | {
        "1.5": 1.5, "-1.5": -1.5, "+1.5": 1.5, ".5": 0.5, "5.": 5.0, "5": 5.0, "007.50": 7.5, "1e3": 1000.0, "1E-3": 0.001,
        "1e+22": 1e22, "0.1": 0.1, "-0.0": 0.0, "1e308": 1e308, "1e-320": 1e-320, "9007199254740993": 2.0**53,
        "18446744073709551616": 2.0**64, "1e999": REFUSED, "-1e999": REFUSED, "inf": REFUSED, "Infinity": REFUSED,
        "-nan": REFUSED, "1_000.5": REFUSED, "1,5": REFUSED, "1.000,5": REFUSED, "1 000": REFUSED, " 1.5": REFUSED,
        "1.5\u00a0": REFUSED, "１.５": REFUSED, "1.5.1": REFUSED, "1e": REFUSED, "e5": REFUSED, ".": REFUSED, "0x1p3": REFUSED,
        "1e1234": REFUSED, "1.5f": REFUSED, "50%": REFUSED, "$1.50": REFUSED, "true": REFUSED, "one": REFUSED, " ": REFUSED},
    "text": {text: text for text in (
        "3", "3.0", "007", "NA", "nan", "null", "None", "true", "", " ", " a ", "a\nb", 'say "a"', "a,b", "Zürich", "€", "１", "1e3",
        "2024-03-01", "=1+1", "\u2028", "e\u0301", "🙂", "a" * 300)},
    "boolean": MARKS | {
        "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False, "tRUE": REFUSED, "1": REFUSED,
        "0": REFUSED, "1.0": REFUSED, "yes": REFUSED, "no": REFUSED, "on": REFUSED, "t": REFUSED, "f": REFUSED, "Y": REFUSED,
        " true": REFUSED, "true ": REFUSED, "wahr": REFUSED},
    "time": MARKS | {
        "2024-03-01T09:00:00Z": NINE, "2024-03-01t09:00:00z": NINE, "2024-03-01 10:00:00+01:00": NINE, "2024-03-01 04:00-0500": NINE,
        "2024-03-01 14:30+0530": NINE, "2024-03-01 10:00:00+01": NINE, "2024-03-01T09:00:00.000000Z": NINE,
        "2024-03-01T09:00:00.0000009Z": NINE, "2024-03-01T09:00:00.123456Z": NINE + timedelta(microseconds=123456),
        "2024-03-01T09:00:00-00:00": NINE, "1900-01-01T00:00:00Z": datetime(1900, 1, 1, tzinfo=UTC),
        "1900-01-01T00:00:00+01:00": REFUSED, "2200-01-01T00:00:00Z": REFUSED, "2199-12-31T23:59:59-01:00": REFUSED,
        "2024-03-01T09:00:00": REFUSED, "2024-03-01": REFUSED, "09:00": REFUSED, "20240301": REFUSED, "20240301T090000Z": REFUSED,
        "202403010900": REFUSED, "1709283600": REFUSED, "1709283600.5": REFUSED, "now": REFUSED, "2024/03/01 09:00Z": REFUSED,
        "2024-03-01T09:00:00 Z": REFUSED, " 2024-03-01T09:00:00Z": REFUSED, "2024-03-01T09:00:00Z\n": REFUSED,
        "2024-02-30T09:00:00Z": REFUSED, "2023-02-29T09:00:00Z": REFUSED, "2024-13-01T09:00:00Z": REFUSED,
        "2024-03-01T24:00:00Z": REFUSED, "2024-03-01T09:60:00Z": REFUSED, "2024-03-01T09:00:60Z": REFUSED,
        "2024-03-01T09:00:00+24:00": REFUSED, "2024-03-01T09:00:00+01:60": REFUSED, "2024-03-01T09:00:00,5Z": REFUSED,
        "2024-03-01T9:00:00Z": REFUSED, "2024-3-1T09:00:00Z": REFUSED, "24-03-01T09:00:00Z": REFUSED, "2024-W09-5T09:00Z": REFUSED,
        "2024-061T09:00Z": REFUSED, "2024-03-01T09:00:00 UTC": REFUSED, "2024-03-01T09:00:00[UTC]": REFUSED,
        "２０２４-03-01T09:00:00Z": REFUSED, "Fri, 01 Mar 2024 09:00:00 GMT": REFUSED, "true": REFUSED},
}
TYPED = {  # by type: a value of Parquet, of Delta, of a column with a type in a database, or of JSON where that has the type
    "integer": [(3, 3), (-3, -3), (0, 0), (2**53 + 1, 2**53 + 1), (2**63 - 1, 2**63 - 1), (3.0, 3), (-0.0, 0), (1e3, 1000),
                (2.0**53, 2**53), (2.0**53 + 2, REFUSED), (1e300, REFUSED), (3.5, REFUSED), (-0.1, REFUSED), (inf, REFUSED),
                (True, REFUSED), (False, REFUSED), (NINE, REFUSED)],
    "number": [(1.5, 1.5), (-1.5, -1.5), (3, 3.0), (3.0, 3.0), (0.1, 0.1), (1e22, 1e22), (1e-7, 1e-7), (5e-324, 5e-324),
               (1.7976931348623157e308, 1.7976931348623157e308),
               (2**53 + 1, 2.0**53), (2**63 - 1, 2.0**63), (inf, REFUSED), (-inf, REFUSED),
               (True, REFUSED), (NINE, REFUSED)],
    "text": [("007", "007"), ("NA", "NA"), ("", "")],
    "boolean": [(True, True), (False, False), (1, REFUSED), (0, REFUSED), (1.0, REFUSED)],
    "time": [(NINE, NINE), (NINE.astimezone(timezone(timedelta(hours=-5))), NINE),
             (NINE + timedelta(microseconds=1), NINE + timedelta(microseconds=1)),
             (datetime(2024, 3, 1, 9), REFUSED), (date(2024, 3, 1), REFUSED), (datetime(2200, 1, 1, tzinfo=UTC), REFUSED),
             (1709283600, REFUSED), (1709283600.5, REFUSED), (True, REFUSED)],
}
NOT_A_NUMBER = nan  # missing in a table; no JSON
GOOD = {int: 1, float: 1.0, str: "a", bool: True, datetime: NINE, date: date(2024, 3, 1)}
