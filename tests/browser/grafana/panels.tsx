/** The panels of a dashboard at their places, drawn by the components that Grafana itself draws them with.

What is in `window`: `board`, the dashboard; `answers`, for each panel what Prometheus answered to its targets.
Grafana's plugins are no packages: what they fill in where a panel says nothing is written here, from their sources. */

import {
  applyFieldOverrides,
  createTheme,
  dateTime,
  FieldType,
  getFieldDisplayValues,
  identityOverrideProcessor,
  Registry,
  type DataFrame,
  type FieldConfigPropertyItem,
  type FieldConfigSource,
} from "@grafana/data";
import {
  BigValue,
  type BigValueColorMode,
  type BigValueGraphMode,
  type BigValueTextMode,
  GlobalStyles,
  PanelChrome,
  ThemeContext,
  TimeSeries,
} from "@grafana/ui";
import { createRoot } from "react-dom/client";

interface Series {
  metric: Record<string, string>;
  values: Array<[number, string]>;
}
interface Panel {
  title: string;
  type: string;
  description?: string;
  gridPos: { x: number; y: number; w: number; h: number };
  fieldConfig: FieldConfigSource;
  options: Record<string, never>;
  targets: Array<{ refId: string; legendFormat?: string }>;
}
interface Given {
  board: { panels: Panel[] };
  answers: Series[][][];
  from: number;
  to: number;
  step: number;
}

const COLUMN = 60;
const ROW = 30;
const GAP = 8;
/** What the plugin "timeseries" fills in. */
const LEGEND = { showLegend: true, displayMode: "list", placement: "bottom", calcs: [] };
const CUSTOM = {
  drawStyle: "line",
  lineInterpolation: "linear",
  lineWidth: 1,
  fillOpacity: 0,
  gradientMode: "none",
  spanNulls: false,
  showPoints: "auto",
  pointSize: 5,
  showValues: false,
  stacking: { mode: "none", group: "A" },
  axisPlacement: "auto",
  axisLabel: "",
  axisColorMode: "text",
  axisBorderShow: false,
  axisGridShow: undefined,
  axisCenteredZero: false,
  axisSoftMin: undefined,
  axisSoftMax: undefined,
  axisWidth: undefined,
  scaleDistribution: { type: "linear" },
  barAlignment: 0,
  barWidthFactor: 0.6,
  lineStyle: undefined,
  fillBelowTo: undefined,
  hideFrom: { tooltip: false, viz: false, legend: false },
  insertNulls: false,
  thresholdsStyle: { mode: "off" },
};
const DEFAULTS = {
  color: { mode: "palette-classic" },
  thresholds: { mode: "absolute", steps: [{ value: -Infinity, color: "green" }, { value: 80, color: "red" }] },
};
const STANDARD = ["unit", "min", "max", "decimals", "displayName", "noValue", "color", "thresholds", "mappings"];

function property(path: string, isCustom: boolean): FieldConfigPropertyItem {
  const id = isCustom ? `custom.${path}` : path;
  const none = () => null;
  return {
    id, path, isCustom, name: id, settings: {}, process: identityOverrideProcessor, shouldApply: () => true,
    editor: none, override: none,
  } as unknown as FieldConfigPropertyItem;
}

const properties = new Registry<FieldConfigPropertyItem>(() => [
  ...STANDARD.map((id) => property(id, false)),
  ...Object.keys(CUSTOM).map((id) => property(id, true)),
]);

/** As Grafana names a series: by legendFormat, else by all labels. */
function named(metric: Record<string, string>, format: string | undefined): string {
  if (format && format !== "__auto") {
    return format.replace(/{{\s*(.+?)\s*}}/g, (_, label) => metric[label] ?? "");
  }
  const labels = Object.entries(metric).filter(([key]) => key !== "__name__");
  return `${metric.__name__ ?? ""}{${labels.map(([key, value]) => `${key}="${value}"`).join(", ")}}`;
}

function frames(panel: Panel, answers: Series[][], step: number): DataFrame[] {
  return panel.targets.flatMap((target, at) =>
    (answers[at] ?? []).map(({ metric, values }) => ({
      refId: target.refId,
      length: values.length,
      fields: [
        {
          name: "Time",
          type: FieldType.time,
          config: { interval: step * 1000 },
          values: values.map(([second]) => second * 1000),
        },
        {
          name: "Value",
          type: FieldType.number,
          config: { displayNameFromDS: named(metric, target.legendFormat) },
          labels: metric,
          values: values.map(([, value]) => Number(value.replace("Inf", "Infinity"))),
        },
      ],
    })),
  );
}

interface Room {
  panel: Panel;
  answers: Series[][];
  width: number;
  height: number;
}

/** The panel's frames with all that Grafana says of their fields. */
function shown(panel: Panel, answers: Series[][]) {
  const { defaults, overrides } = panel.fieldConfig;
  const custom = panel.type === "timeseries" ? { ...CUSTOM, ...defaults.custom } : {};
  const fieldConfig = { defaults: { ...DEFAULTS, ...defaults, custom }, overrides } as FieldConfigSource;
  const given = { fieldConfig, theme: theme(), timeZone: "utc", replaceVariables: (text: string) => text };
  const data = frames(panel, answers, (window as unknown as Given).step);
  return { ...given, data: applyFieldOverrides({ ...given, data, fieldConfigRegistry: properties }) };
}

function Plot({ panel, answers, width, height }: Room) {
  const { from, to } = window as unknown as Given;
  const { data, fieldConfig } = shown(panel, answers);
  if (!data.length) {
    const said = fieldConfig.defaults.noValue ?? "No data";
    return <div style={{ display: "grid", placeItems: "center", height }}>{said}</div>;
  }
  const [begin, end] = [dateTime(from * 1000), dateTime(to * 1000)];
  return (
    <TimeSeries
      frames={data}
      width={width}
      height={height}
      timeZone="utc"
      timeRange={{ from: begin, to: end, raw: { from: begin, to: end } }}
      legend={{ ...LEGEND, ...(panel.options.legend as object) } as never}
    />
  );
}

function Stat({ panel, answers, width, height }: Room) {
  const { reduceOptions, colorMode, graphMode, textMode } = panel.options;
  const [one] = getFieldDisplayValues({ ...shown(panel, answers), reduceOptions });
  return (
    <BigValue
      value={one.display}
      width={width}
      height={height}
      count={1}
      colorMode={colorMode as BigValueColorMode}
      graphMode={graphMode as BigValueGraphMode}
      textMode={textMode as BigValueTextMode}
      theme={theme()}
    />
  );
}

const KINDS: Record<string, (room: Room) => JSX.Element> = { timeseries: Plot, stat: Stat };

function theme() {
  return createTheme({ colors: { mode: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light" } });
}

function Board() {
  const { board, answers } = window as unknown as Given;
  const bottom = Math.max(...board.panels.map(({ gridPos: { y, h } }) => y + h));
  return (
    <ThemeContext.Provider value={theme()}>
      <GlobalStyles />
      <div style={{ position: "relative", height: bottom * (ROW + GAP), background: theme().colors.background.canvas }}>
        {board.panels.map((panel, at) => {
          const Kind = KINDS[panel.type];
          if (!Kind) {
            throw new Error(`panels.tsx draws no panel of type ${panel.type}`);
          }
          const { x, y, w, h } = panel.gridPos;
          const box = { left: x * COLUMN + GAP, top: y * (ROW + GAP) + GAP, position: "absolute" } as const;
          return (
            <div style={box} key={panel.title}>
              <PanelChrome
                title={panel.title}
                description={panel.description}
                width={w * COLUMN - GAP}
                height={h * (ROW + GAP) - GAP}
              >
                {(width, height) => <Kind panel={panel} answers={answers[at]} width={width} height={height} />}
              </PanelChrome>
            </div>
          );
        })}
      </div>
    </ThemeContext.Provider>
  );
}

// Axes are measured in Grafana's font, so the page is drawn once it is there.
Promise.all([document.fonts.load("12px Inter"), document.fonts.load("500 14px Inter")]).then((found) => {
  if (found.some((faces) => faces.length === 0)) {
    throw new Error("the font Inter is not there");
  }
  createRoot(document.getElementById("board")!).render(<Board />);
});
