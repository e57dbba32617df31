/** A dashboard as JSON, as Grafana's schema has it: a word in place of each member of an enum. */

import type {
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  Dashboard,
  GraphFieldConfig,
  OptionsWithLegend,
  OptionsWithTooltip,
  Panel,
  SingleStatBaseOptions,
} from "@grafana/schema";

type Plain<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? Plain<Item>[]
    : T extends object
      ? { [Key in keyof T]: Plain<T[Key]> }
      : T;
type Deep<T> = T extends (infer Item)[] ? Deep<Item>[] : T extends object ? { [Key in keyof T]?: Deep<T[Key]> } : T;

type Sources = NonNullable<Panel["fieldConfig"]>;
interface Kind<Type, Options, Custom> extends Omit<Panel, "type" | "options" | "fieldConfig" | "targets"> {
  type: Type;
  options: Deep<Options>;
  fieldConfig: Omit<Sources, "defaults"> & { defaults: Omit<Sources["defaults"], "custom"> & { custom?: Custom } };
  /** What the data source for Prometheus reads, of all that a target may have. */
  targets: { refId: string; expr: string; legendFormat: string; instant?: boolean; range?: boolean }[];
}
interface StatOptions extends SingleStatBaseOptions {
  colorMode: BigValueColorMode;
  graphMode: BigValueGraphMode;
  justifyMode: BigValueJustifyMode;
  textMode: BigValueTextMode;
}
type Drawn =
  | Kind<"timeseries", OptionsWithLegend & OptionsWithTooltip, GraphFieldConfig>
  | Kind<"stat", StatOptions, never>;
export type Board = Plain<Omit<Dashboard, "panels"> & { panels: Drawn[] }>;
