"""Studies: many runs of one file, their measures, and the tables and figures that are made of them (docs/study.md).

| module | what it does |
|---|---|
| config | the study file |
| plan | the runs that it expands to, each with a whole configuration of its own |
| runner | makes the runs, each in a process of its own, and goes on where an interrupted study stopped |
| measure | reads finished runs through the store |
| record | what tables and figures need, as small Parquet files that outlive the runs' stores |
| tables, figures | from the record alone |
| report | puts them into the page |
"""
