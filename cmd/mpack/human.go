package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"mpack/oci"
)

// humanBytes writes a size in decimal units, as registries and disks are sold.
func humanBytes(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB", "PB"} {
		if v /= 1000; v < 999.5 {
			break
		}
	}
	if v < 99.95 {
		return fmt.Sprintf("%.1f %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

// humanCount writes a number with its thousands apart.
func humanCount(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func humanDuration(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// describeConfig prints what a config says, one row a property.
func describeConfig(row func(name, format string, args ...any), c *oci.Config) {
	text := func(name, value string) { row(name, "%s", printable(value)) }
	list := func(name string, values []string) { text(name, strings.Join(values, ", ")) }
	text("Kind", c.Kind)
	text("Name", c.About.Name)
	text("Version", c.About.Version)
	text("Title", c.About.Title)
	text("Description", c.About.Description)
	list("Authors", c.About.Authors)
	text("Vendor", c.About.Vendor)
	text("Family", c.About.Family)
	list("Licenses", c.About.Licenses)
	if c.Model.Capabilities != nil {
		list("Languages", c.Model.Capabilities.Languages)
	}
	list("Tags", c.Tags)
	text("Source", c.About.SourceURL)
	text("Revision", c.About.Revision)
	text("Documentation", c.About.DocURL)
	text("Format", c.Model.Format)
	text("Architecture", c.Model.Architecture)
	if c.Parameters > 0 {
		row("Parameters", "%s (%s)", humanCount(c.Parameters), c.Model.ParamSize)
	}
	var types []string
	for _, t := range sortedKeys(c.ElementTypes) {
		types = append(types, fmt.Sprintf("%s %s", t, humanCount(c.ElementTypes[t])))
	}
	list("Element types", types)
	text("Quantization", c.Model.Quantization)
	if c.ContextLength > 0 {
		row("Context length", "%s tokens", humanCount(c.ContextLength))
	}
	for _, s := range c.BaseModels {
		text("Base model", s.String())
	}
	for _, s := range c.Corpora {
		text("Corpus", s.String())
	}
	if c.Rows > 0 {
		row("Rows", "%s", humanCount(c.Rows))
	}
	var cols []string
	for _, col := range c.Schema {
		cols = append(cols, strings.TrimSpace(col.Name+" "+col.Type))
	}
	list("Columns", cols)
}
