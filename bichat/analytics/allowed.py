"""What queries may call: what computes from what it is given, and neither looks around, waits nor writes."""

from __future__ import annotations

from sqlglot import exp

_NAMES = """
any_value avg bit_and bit_or bool_and bool_or corr count covar_pop covar_samp every
max min mode percentile_cont percentile_disc
regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy
stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance
grouping cube rollup

cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number

abs cbrt ceil ceiling degrees div exp floor gcd greatest lcm least ln log log10 mod pi power pow radians
random round sign sqrt trunc width_bucket sin cos tan asin acos atan atan2

ascii btrim char_length character_length chr concat concat_ws initcap left length lower ltrim md5
octet_length overlay position regexp_count regexp_instr regexp_like regexp_match regexp_matches
regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr replace reverse right rtrim
split_part starts_with string_to_array string_to_table strpos substr substring to_ascii to_hex translate
trim unaccent upper

age current_date current_time current_timestamp date date_add date_bin date_part date_subtract
date_trunc extract
isfinite justify_days justify_hours justify_interval localtime localtimestamp make_date make_interval
make_time make_timestamp make_timestamptz now statement_timestamp to_char to_date to_number
to_timestamp transaction_timestamp clock_timestamp timezone

coalesce nullif num_nonnulls num_nulls cast exists any all some array unnest row
array_append array_cat array_dims array_length array_ndims array_position array_positions array_prepend
array_remove array_to_string array_upper array_lower cardinality
generate_series generate_subscripts

json_array_elements json_array_elements_text json_array_length json_build_array json_build_object
json_each json_each_text json_extract_path json_extract_path_text json_object_keys json_typeof
jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text
jsonb_object_keys jsonb_typeof row_to_json to_json to_jsonb

to_tsvector to_tsquery plainto_tsquery websearch_to_tsquery ts_rank similarity word_similarity
"""
FUNCTIONS = frozenset(_NAMES.split())
"""By their names in Postgres. Not here because of what they can blow up to: repeat, lpad, rpad, format,
array_agg, and the aggregates that make JSON."""

SYNTAX = (
    exp.And, exp.Or, exp.Xor, exp.Case, exp.If, exp.Cast, exp.TryCast, exp.Extract, exp.StrPosition, exp.Trim,
    exp.Substring, exp.Overlay, exp.Coalesce, exp.Nullif, exp.Exists, exp.Array, exp.RegexpLike,
    exp.RegexpILike, exp.Pow, exp.CurrentDate, exp.CurrentTime, exp.CurrentTimestamp, exp.Localtime,
    exp.Localtimestamp, exp.JSONExtract, exp.JSONExtractScalar, exp.JSONBExtract, exp.JSONBExtractScalar,
    exp.JSONBContains, exp.JSONBContainsAnyTopKeys, exp.JSONBContainsAllTopKeys, exp.ArrayContainsAll,
    exp.ArrayContainedBy, exp.ArrayOverlaps, exp.ArrayConcat, exp.Any, exp.All,
    exp.Unnest, exp.Explode, exp.GroupConcat,
)  # fmt: skip
"""What is written in another way than NAME(…)."""
