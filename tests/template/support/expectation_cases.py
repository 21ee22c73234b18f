"""Kind 6: each expectation that Great Expectations ships for pandas, on a column of each type, so that it holds and so that it fails."""
import numpy as np
import pandas as pd

T = pd.to_datetime(["2024-03-01", "2024-03-02", None, "2024-03-04", "2024-03-04"], utc=True, format="ISO8601").as_unit("us")
COLUMNS = {  # two values, none, and a third one twice
    "integer": pd.Series([1, 2, None, 4, 4], dtype="Int64"), "number": pd.Series([1.0, 2.0, np.nan, 4.0, 4.0]),
    "text": pd.Series(["a", "b", None, "d", "d"], dtype="str"), "boolean": pd.Series([True, True, None, False, False], dtype="boolean"),
    "time": pd.Series(T), "whole": pd.Series([1, 2, 3, 4, 4]), "local": pd.Series(T.tz_localize(None))}
NUMBERS, ORDERED = {"integer", "number", "whole"}, {"integer", "number", "time", "whole", "local"}


def frame_of(type: str) -> pd.DataFrame:
    """The column, a copy of it, and one that is later or greater by one where the type has that."""
    values = COLUMNS[type]
    more = values + (pd.Timedelta("1h") if type in ("time", "local") else 1) if type in ORDERED else values
    return pd.DataFrame({"it": values, "same": values, "more": more, "json": '{"a": 1}', "at": "2024-03-10 09:00"})


def cases(type: str) -> list[tuple[str, dict, bool | None]]:
    """Name, arguments, and whether it holds; None: the library may not be able to check this type, and then it says so."""
    there = COLUMNS[type].dropna()
    low, high, all_of = there.min(), there.max(), there.drop_duplicates().tolist()
    plain = [v.isoformat() if hasattr(v, "isoformat") else v for v in all_of]
    ends = [v.to_pydatetime() if hasattr(v, "to_pydatetime") else v.item() if hasattr(v, "item") else v for v in (low, high)]
    between, beyond = dict(min_value=ends[0], max_value=ends[1]), dict(min_value=ends[1], strict_min=True)
    ordered, number = type in ORDERED, type in NUMBERS
    def column(kind, right, **arguments): return f"ExpectColumn{kind}", {"column": "it"} | arguments, right
    def values(kind, right, **arguments): return column(f"Values{kind}", right, **arguments)
    def both(kind, good, bad, can=True):
        return [column(kind, right if can else None, **given) for given, right in ((good, True), (bad, False))]
    odd = ["zz"] if type == "text" else [99] if number else [True] if type == "boolean" else ["2030-01-01T00:00:00"]
    found = [
        *both("DistinctValuesToBeInSet", dict(value_set=plain), dict(value_set=plain[:1])),
        *both("DistinctValuesToContainSet", dict(value_set=plain[:1]), dict(value_set=[*plain, *odd]), type != "boolean"),
        *both("DistinctValuesToEqualSet", dict(value_set=plain), dict(value_set=plain[:1])),
        *both("MaxToBeBetween", between, beyond, ordered), *both("MinToBeBetween", between, beyond, ordered),
        *both("MeanToBeBetween", dict(min_value=1, max_value=4), dict(min_value=5), number),
        *both("MedianToBeBetween", dict(min_value=1, max_value=4), dict(min_value=5), number),
        *both("StdevToBeBetween", dict(min_value=0.1, max_value=4), dict(min_value=5), number),
        *both("SumToBeBetween", dict(min_value=1, max_value=40), dict(min_value=50), number),
        *both("QuantileValuesToBeBetween", *(
            dict(quantile_ranges={"quantiles": [0.5], "value_ranges": [ends]}) for ends in ([1, 4], [5, 6])), can=number),
        *both("ProportionOfNonNullValuesToBeBetween", dict(min_value=0.5), dict(max_value=0.1)),
        *both("ProportionOfUniqueValuesToBeBetween", dict(max_value=0.9), dict(max_value=0.1)),
        *both("UniqueValueCountToBeBetween", dict(max_value=4), dict(max_value=1)),
        *both("MostCommonValueToBeInSet", dict(value_set=plain, ties_okay=True), dict(value_set=odd),
              type not in ("boolean", "time", "local")),
        *both("ToExist", {}, dict(column="nowhere")),
        values("ToNotBeNull", type == "whole", mostly=1.0), values("ToNotBeNull", True, mostly=0.8),
        values("ToBeNull", False), values("ToBeUnique", False, mostly=1.0),
        *([values("ToBeBetween", True, **between), values("ToBeBetween", False, **beyond),
           values("ToBeIncreasing", True), values("ToBeDecreasing", False)] if ordered else []),
        *both("ValuesToBeInSet", dict(value_set=plain), dict(value_set=plain[:1]), type not in ("time", "local")),
        *both("ValuesToNotBeInSet", dict(value_set=odd), dict(value_set=plain), type in ("text", "integer", "number", "whole")),
        *both("ValueZScoresToBeLessThan", *(dict(threshold=most, double_sided=True) for most in (3, 0.1)), can=type == "whole"),
        *both("ValuesToNotBeOutliers", dict(method="iqr", multiplier=1.5), dict(method="std", multiplier=0.1), type == "whole"),
        *both("KLDivergenceToBeLessThan", *(dict(partition_object={"values": plain, "weights": weights}, threshold=0.5) for weights in (
            [1 / len(plain)] * len(plain), [0.999] + [0.001 / (len(plain) - 1)] * (len(plain) - 1))), can=type == "text"),
        *both("TypeToBe", dict(type_=str(COLUMNS[type].dtype)), dict(type_="object")),
        *both("ValuesToBeInTypeList", {}, dict(type_list=["no_such_type"])), values("ToBeOfType", False, type_="complex"),
    ]
    if type == "text":
        for good, bad, kind in (("^[abd]$", "^a$", "ToMatchRegex"), ("^z$", "^a$", "ToNotMatchRegex")):
            found += [values(kind, True, regex=good), values(kind, False, regex=bad)]
            found += [values(f"{kind}List", True, regex_list=[good]), values(f"{kind}List", False, regex_list=[bad])]
        found += [*both("ValueLengthsToEqual", dict(value=1), dict(value=2)),
                  *both("ValueLengthsToBeBetween", dict(max_value=1), dict(min_value=2)),
                  *both("ValuesToBeJsonParseable", dict(column="json"), {}), *both("ValuesToBeDateutilParseable", dict(column="at"), {}),
                  *both("ValuesToMatchStrftimeFormat", *(dict(column="at", strftime_format=f) for f in ("%Y-%m-%d %H:%M", "%H:%M"))),
                  *both("ValuesToMatchJsonSchema", *(dict(column="json", json_schema={"type": t}) for t in ("object", "array")))]
    pair, many = dict(column_A="more", column_B="it", ignore_row_if="either_value_is_missing"), ["it", "same"]
    found += [
        ("ExpectColumnPairValuesToBeEqual", dict(column_A="it", column_B="same"), True),
        ("ExpectCompoundColumnsToBeUnique", dict(column_list=many), False),
        ("ExpectMulticolumnValuesToBeEqual", dict(column_list=many), True),
        ("ExpectSelectColumnValuesToBeUniqueWithinRecord", dict(column_list=many), False),
        ("ExpectTableColumnCountToEqual", dict(value=5), True), ("ExpectTableColumnCountToEqual", dict(value=4), False),
        ("ExpectTableColumnCountToBeBetween", dict(min_value=5), True), ("ExpectTableColumnCountToBeBetween", dict(min_value=6), False),
        ("ExpectTableColumnsToMatchSet", dict(column_set=["it"], exact_match=False), True),
        ("ExpectTableColumnsToMatchSet", dict(column_set=["it"]), False),
        ("ExpectTableColumnsToMatchOrderedList", dict(column_list=["it", "same", "more", "json", "at"]), True),
        ("ExpectTableColumnsToMatchOrderedList", dict(column_list=["same", "it"]), False),
        ("ExpectTableRowCountToEqual", dict(value=5), True), ("ExpectTableRowCountToEqual", dict(value=6), False),
        ("ExpectTableRowCountToBeBetween", dict(min_value=5), True), ("ExpectTableRowCountToBeBetween", dict(min_value=6), False)]
    if ordered: found += [("ExpectColumnPairValuesAToBeGreaterThanB", pair, True),
                          ("ExpectColumnPairValuesAToBeGreaterThanB", pair | dict(column_A="it", column_B="more"), False)]
    if number: found += [("ExpectMulticolumnSumToEqual", dict(column_list=many, sum_total=7), False)]
    if type == "text":
        same = dict(column_A="it", column_B="same")
        found += [("ExpectColumnPairValuesToBeInSet", same | dict(value_pairs_set=pairs), right) for pairs, right in (
            ([(v, v) for v in plain], True), ([("a", "b")], False))]
    return found
