export interface Named {
  name: string;
}

export enum Colour {
  Red = "red",
}

export const label = (thing: Named): string => `<${thing.name!}>`;
