"""Commands that run many searches and compare them: sweep, compare, joint or staged."""
