package main

import (
	"bytes"
	"context"
	"io"
	"os"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// checkMetrics reads metrics in Prometheus' text format from standard input, with Prometheus' own
// parser, and fails with what that says. Its linter's advice is reported beside.
func checkMetrics(context.Context, []string) error {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return err
	}
	found, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		return err
	}
	advice := []string{}
	for _, problem := range found {
		advice = append(advice, problem.Metric+": "+problem.Text)
	}
	report(map[string]any{"families": len(families), "advice": advice})
	return nil
}
