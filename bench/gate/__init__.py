"""The gate: does this change make streaming slower? Base and head side by side, measure by measure, and one verdict."""
