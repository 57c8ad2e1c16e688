"""Work directories: settings, runs, evaluation, studies, reports and figures."""
