"""What people look at: contact sheets, curves, the distance matrix, tables, the report page.

Nothing here computes a result; it shows what other rooms have left on disk.
"""
